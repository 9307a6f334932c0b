"""Every party is killed in turn, in the middle of a request. The answer must come all the same,
be right, and leave nothing behind."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prfaas.testing.comparing import assert_same_or_near_tie, complete, greedy
from prfaas.testing.running import Answer, call, unused_engines

pytestmark = pytest.mark.engine

LENGTH = 10_000
ANSWER_WITHIN_S = 30.0
SETTLE_S = 120.0
NEVER_MANY_FILES = ("gateway", "east-agent", "west-agent")
KEPT_OPEN = 12
"""Connections that may be kept for the next request: HTTP to engines and agents, the KV link."""


def fresh_prompt(name: str) -> list[int]:
    return random.Random(name).choices(range(300, 4000), k=LENGTH)


def until(condition: Callable[[], Any], within_s: float, what: str) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def metric(url: str, name: str) -> float:
    """Sum of a metric's samples."""
    lines = call(f"{url}/metrics").body.decode().splitlines()
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.split("{")[0].split(" ")[0] == name)


def slots(gdn: Any, cluster: str, state: str) -> float:
    lines = call(f"{gdn.running.admin(cluster)}/metrics").body.decode().splitlines()
    (line,) = [x for x in lines if x.startswith(f'prfaas_agent_slots{{state="{state}"}}')]
    return float(line.rsplit(" ", 1)[1])


def whole(gdn: Any) -> bool:
    """Everything is up, the line too, and holds nothing: no slot, no engine KV block."""
    try:
        if call(f"{gdn.running.url}/ready", timeout_s=5).status != 200:
            return False
        if unused_engines(gdn.running.url, gdn.running.deployment):
            return False
        if metric(gdn.running.url, "prfaas_gateway_link_up") < len(gdn.running.deployment.links):
            return False
        for cluster in gdn.running.deployment.clusters:
            admin = gdn.running.admin(cluster.name)
            if len(call(f"{admin}/engines", timeout_s=5).json()["engines"]) != len(cluster.engines):
                return False
            if slots(gdn, cluster.name, "free") * cluster.agent.slot_bytes != (
                cluster.agent.arena_bytes
            ):
                return False
            for engine in cluster.engines:
                if metric(str(engine.url), "vllm:kv_cache_usage_perc") > 0:
                    return False
    except OSError:
        return False
    return True


def orphaned_shared_memory() -> set[str]:
    """Files of Python's shared memory that no process maps."""
    files = {str(path) for path in Path("/dev/shm").glob("psm_*")}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text()
        except OSError:
            continue
        files = {name for name in files if name not in text}
    return files


def processes(gdn: Any) -> dict[str, int]:
    """How many processes each part of the deployment runs."""
    engines = [e.name for c in gdn.running.deployment.clusters for e in c.engines]
    return {name: len(gdn.running.pids(name)) for name in (*engines, *NEVER_MANY_FILES)}


def descriptors(gdn: Any) -> int:
    """Open files of those that must not collect them."""
    leaders = [gdn.running.pids(name)[0] for name in NEVER_MANY_FILES]
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in leaders)


@pytest.fixture
def healthy(gdn: Any) -> Any:
    until(lambda: whole(gdn), SETTLE_S, "not whole before the test")
    memory, running, files = orphaned_shared_memory(), processes(gdn), descriptors(gdn)
    yield gdn
    until(lambda: whole(gdn), SETTLE_S, "something was left behind or did not come back")
    until(lambda: orphaned_shared_memory() <= memory, 10, "shared memory was left behind")
    until(lambda: processes(gdn) == running, 30, "processes were left behind")
    # A link in trouble tries more connections, and closes them after a minute without work.
    until(lambda: descriptors(gdn) <= files + KEPT_OPEN, 90, "file descriptors were left behind")


def exporting(gdn: Any) -> bool:
    """Bytes of an offloaded prompt have begun to arrive in the west."""
    return slots(gdn, "west", "free") * gdn.running.deployment.cluster("west").agent.slot_bytes < (
        gdn.running.deployment.cluster("west").agent.arena_bytes
    )


def in_flight(gdn: Any, ids: list[int], pool: ThreadPoolExecutor) -> Future[Answer]:
    """The prompt sent, and its KV cache on its way."""
    asked = pool.submit(call, f"{gdn.running.url}/v1/completions", greedy(gdn.model, ids))
    until(lambda: exporting(gdn) or asked.done(), 60, "the hand-off did not begin")
    assert not asked.done()
    return asked


@pytest.mark.parametrize("victim", ["east-prefill", "east-agent", "west-agent", "west-decode"])
def test_a_process_is_killed(healthy: Any, victim: str) -> None:
    ids = fresh_prompt(victim)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        for pid in healthy.running.pids(victim):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        answer = asked.result(timeout=SETTLE_S)
    assert answer.status == 200, answer.body
    assert time.monotonic() - killed < ANSWER_WITHIN_S
    if victim == "west-decode":
        assert "west-prefill stands in" in answer.headers["x-prfaas-route"]
    assert_right(healthy, ids, answer)


@pytest.mark.parametrize("harm", ["cut", "slow"])
def test_the_line_is_harmed(healthy: Any, harm: str) -> None:
    """Cut: every connection breaks and none can be made. Slow: a hundredth of the rate is left."""
    ids = fresh_prompt(harm)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        began = time.monotonic()
        try:
            if harm == "cut":
                healthy.line.cut()
            else:
                healthy.line.slow(25_000)
            answer = asked.result(timeout=SETTLE_S)
        finally:
            healthy.line.mend()
    assert answer.status == 200, answer.body
    assert time.monotonic() - began < ANSWER_WITHIN_S
    assert answer.headers["x-prfaas-attempts"] != "1"
    assert_right(healthy, ids, answer)


def test_the_line_is_cut_for_a_moment(healthy: Any) -> None:
    """Within the grace the transfer goes on where it stopped: nothing is prefilled twice."""
    ids = fresh_prompt("moment")
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        healthy.line.cut()
        healthy.line.mend()
        answer = asked.result(timeout=SETTLE_S)
    assert answer.headers["x-prfaas-attempts"] == "1"
    assert answer.headers["x-prfaas-route"].startswith("offload")
    assert_right(healthy, ids, answer)


def test_the_line_freezes(healthy: Any) -> None:
    """The sending end is stopped dead (SIGSTOP): connections stay open and nothing moves."""
    ids = fresh_prompt("frozen")
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        stopped = healthy.running.pids("east-agent")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            answer = asked.result(timeout=SETTLE_S)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert answer.status == 200, answer.body
    assert time.monotonic() - began < ANSWER_WITHIN_S
    assert_right(healthy, ids, answer)


def test_the_client_goes_away(healthy: Any) -> None:
    ids = fresh_prompt("client")
    host, port = healthy.running.url.removeprefix("http://").split(":")
    payload = json.dumps(greedy(healthy.model, ids)).encode()
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(payload) + payload
        )
        until(lambda: exporting(healthy), 60, "the hand-off did not begin")
    east = healthy.running.engine("east-prefill").url
    until(
        lambda: metric(east, "vllm:num_requests_running") == 0 and not exporting(healthy),
        ANSWER_WITHIN_S,
        "the request went on without its client",
    )


def assert_right(gdn: Any, ids: list[int], answer: Answer) -> None:
    stock, _ = complete(gdn.plain.url, gdn.model, ids)
    assert_same_or_near_tie(answer.json()["choices"][0], stock)
