"""Every party is killed in turn, in the middle of a request. The answer must come all the same,
be right, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prfaas.launch.commands import installed_vllm
from prfaas.link.protocol.receiving_end import PEER_GRACE_S
from prfaas.testing.calling import Answer, call, metric
from prfaas.testing.comparing import ANSWER_TOKENS, assert_same_or_near_tie, complete, greedy
from prfaas.testing.measuring import prompt, seconds_for
from prfaas.testing.running import unused_engines
from prfaas.testing.waiting import until

pytestmark = pytest.mark.engine

LASTING_S = 6.0
"""A prompt on its way for so long is hit in its middle."""
TOKENS = (2600, 10_000)
"""Five chunks at least."""
TOKENS_ON_GPU = (10_000, 30_000)
"""The line has work for a second then, however fast the prefill."""
ATTEMPTS = 3
"""Offloaded, prefilled by the PD cluster's prefill engine, computed by the decode engine alone."""
BESIDE_A_START = 2.0
"""So much longer a prompt takes where a killed engine starts again beside it."""
WATCH_S = 5.0
"""The gateway asks engines for their health twice a second, agents once, three times over."""
LINK_IDLE_S = 60.0
HANG_S = 300.0
"""Ends what never happens."""
NEVER_MANY_FILES = ("gateway", "east-agent", "west-agent")
MORE_KILLED = pytest.mark.skipif(
    installed_vllm() != "gpu" and not os.environ.get("MORE_KILLED"),
    reason="MORE_KILLED=1, or a GPU: each waits for a process to start again",
)
KEPT_OPEN = 12
"""Connections that may be kept for the next request: HTTP to engines and agents, the KV link."""


class Patience:
    """What may pass on this machine until an answer comes in spite of a fault."""

    def __init__(self, gdn: Any) -> None:
        least, most = TOKENS_ON_GPU if installed_vllm() == "gpu" else TOKENS
        self.tokens = gdn.speed.tokens_lasting(LASTING_S, least=least, most=most)
        self.undisturbed_s = seconds_for(
            gdn.running.url, gdn.model, self.tokens, answer_tokens=ANSWER_TOKENS
        )
        """The same prompt, nothing harmed."""
        self.settle_s = 2 * gdn.start_s + LINK_IDLE_S
        """Until all of it is whole again: at most one engine starts, and may pause before."""
        scheduler = gdn.running.deployment.scheduler
        self._noticed_s = WATCH_S + PEER_GRACE_S + scheduler.link_grace_s
        self._stalled_s = 3 * scheduler.transfer_stall_s

    def answer_s(self, *, stalls: bool) -> float:
        """Every attempt once, each beside a start, and the product's own timeouts: what breaks is
        noticed by those for links and engines, what ``stalls`` by the one for transfers."""
        timeouts_s = self._stalled_s if stalls else self._noticed_s
        return timeouts_s + ATTEMPTS * BESIDE_A_START * self.undisturbed_s


@pytest.fixture(scope="module")
def patience(stacks: Any) -> Patience:
    found = Patience(stacks.get("gdn"))
    stacks.figures.append(
        f"faults: {found.tokens:,} tokens take {found.undisturbed_s:.1f} s undisturbed; answered "
        f"within {found.answer_s(stalls=False):.0f} s after a break, "
        f"{found.answer_s(stalls=True):.0f} s after a stall"
    )
    return found


def unused_slots(gdn: Any, cluster: str) -> float:
    """Free, or cached and not read: as good as free."""
    lines = call(f"{gdn.running.admin(cluster)}/metrics").body.decode().splitlines()
    unused = [f'prfaas_pool_slots{{state="{state}"}}' for state in ("free", "cached")]
    return sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(tuple(unused)))


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
            if unused_slots(gdn, cluster.name) * cluster.agents[0].slot_bytes != (
                cluster.agents[0].arena_bytes
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
def healthy(gdn: Any, patience: Patience) -> Any:
    settle_s = patience.settle_s
    settles = partial(until, within_s=settle_s)
    settles(lambda: whole(gdn), "not whole before the test")
    memory, running, files = orphaned_shared_memory(), processes(gdn), descriptors(gdn)
    yield gdn
    settles(lambda: whole(gdn), "something was left behind or did not come back")
    settles(lambda: orphaned_shared_memory() <= memory, "shared memory was left behind")
    settles(lambda: processes(gdn) == running, "processes were left behind")
    # A link in trouble tries more connections, and closes them after a minute without work.
    until(
        lambda: descriptors(gdn) <= files + KEPT_OPEN,
        "file descriptors were left behind",
        within_s=LINK_IDLE_S + settle_s,
    )


def exporting(gdn: Any) -> bool:
    """Bytes of an offloaded prompt have begun to arrive in the west."""
    return unused_slots(gdn, "west") * gdn.running.deployment.cluster("west").agents[
        0
    ].slot_bytes < (gdn.running.deployment.cluster("west").agents[0].arena_bytes)


def in_flight(
    gdn: Any, ids: list[int], pool: ThreadPoolExecutor, *, route: str = "offload"
) -> Future[Answer]:
    """The prompt sent, and its KV cache on its way."""
    asked = pool.submit(call, f"{gdn.gateway(route)}/v1/completions", greedy(gdn.model, ids))
    until(lambda: exporting(gdn) or asked.done(), "the hand-off did not begin", within_s=HANG_S)
    assert not asked.done()
    return asked


@pytest.mark.parametrize("victim", ["east-prefill", "east-agent", "west-agent", "west-decode"])
def test_a_process_is_killed(healthy: Any, patience: Patience, victim: str) -> None:
    ids = prompt(victim, patience.tokens)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        for pid in healthy.running.pids(victim):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        answer = asked.result()
    assert answer.status == 200, answer.body
    assert time.monotonic() - killed < patience.answer_s(stalls=False)
    if victim == "west-decode":
        assert "west-prefill stands in" in answer.headers["x-prfaas-route"]
    assert_right(healthy, ids, answer)


@MORE_KILLED
def test_the_pd_clusters_prefill_engine_is_killed(healthy: Any, patience: Patience) -> None:
    ids = prompt("west-prefill", patience.tokens)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool, route="pd-p")
        for pid in healthy.running.pids("west-prefill"):
            os.kill(pid, signal.SIGKILL)
        answer = asked.result()
    assert answer.status == 200, answer.body
    assert_right(healthy, ids, answer)


@MORE_KILLED
def test_the_gateway_is_killed(healthy: Any, patience: Patience) -> None:
    """Its client's connection breaks; who asks the next one gets the answer."""
    ids = prompt("gateway", patience.tokens)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        for pid in healthy.running.pids("gateway"):
            os.kill(pid, signal.SIGKILL)
        assert isinstance(asked.exception(), OSError)
    until(lambda: whole(healthy), "what it held was not let go of", within_s=patience.settle_s)
    answer = call(f"{healthy.running.url}/v1/completions", greedy(healthy.model, ids))
    assert answer.status == 200, answer.body
    assert_right(healthy, ids, answer)


@pytest.mark.parametrize("harm", ["cut", "slow"])
def test_the_line_is_harmed(healthy: Any, patience: Patience, harm: str) -> None:
    """Cut: every connection breaks and none can be made. Slow: a hundredth of the rate is left."""
    ids = prompt(harm, patience.tokens)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        began = time.monotonic()
        try:
            if harm == "cut":
                healthy.line.cut()
            else:
                healthy.line.slow(25_000)
            answer = asked.result()
        finally:
            healthy.line.mend()
    assert answer.status == 200, answer.body
    assert time.monotonic() - began < patience.answer_s(stalls=harm == "slow")
    assert answer.headers["x-prfaas-attempts"] != "1"
    assert_right(healthy, ids, answer)


def test_the_line_is_cut_for_a_moment(healthy: Any, patience: Patience) -> None:
    """Within the grace the transfer goes on where it stopped: nothing is prefilled twice."""
    ids = prompt("moment", patience.tokens)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        healthy.line.cut()
        healthy.line.mend()
        answer = asked.result()
    assert answer.headers["x-prfaas-attempts"] == "1"
    assert answer.headers["x-prfaas-route"].startswith("offload")
    assert_right(healthy, ids, answer)


def test_the_line_freezes(healthy: Any, patience: Patience) -> None:
    """The sending end is stopped dead (SIGSTOP): connections stay open and nothing moves."""
    ids = prompt("frozen", patience.tokens)
    with ThreadPoolExecutor(1) as pool:
        asked = in_flight(healthy, ids, pool)
        stopped = healthy.running.pids("east-agent")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            answer = asked.result()
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert answer.status == 200, answer.body
    assert time.monotonic() - began < patience.answer_s(stalls=True)
    assert_right(healthy, ids, answer)


def test_the_client_goes_away(healthy: Any, patience: Patience) -> None:
    ids = prompt("client", patience.tokens)
    host, port = healthy.running.url.removeprefix("http://").split(":")
    payload = json.dumps(greedy(healthy.model, ids)).encode()
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(payload) + payload
        )
        until(lambda: exporting(healthy), "the hand-off did not begin", within_s=HANG_S)
    east = healthy.running.engine("east-prefill").url
    until(
        lambda: metric(east, "vllm:num_requests_running") == 0 and not exporting(healthy),
        "the request went on without its client",
        within_s=patience.undisturbed_s + WATCH_S,
    )


def assert_right(gdn: Any, ids: list[int], answer: Answer) -> None:
    stock, _ = complete(gdn.plain.url, gdn.model, ids)
    assert_same_or_near_tie(answer.json()["choices"][0], stock)
