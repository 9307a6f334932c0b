"""Three clusters of several machines on emulated lines: join, offload, lose an agent, lose a line.

Every machine is a network namespace with a real agent, and engines without a model whose hand-offs
are real bytes; a real gateway stands outside. Agents are bound on every interface and advertise the
address that others reach.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.launch.addresses import free_address
from prfaas.launch.certificates import secured
from prfaas.testing.mock_engine import expected_words
from prfaas.testing.running import Answer, call
from prfaas.testing.sites import Sites
from prfaas.testing.wan import WanProfile, unavailable

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(unavailable() is not None, reason=unavailable() or ""),
]

MACHINES = {"east": ["e1", "e2"], "west": ["w1", "w2"], "south": ["s1"]}
ENGINES = {
    "e1": {"e1-p": "prefill"},
    "e2": {"e2-p": "prefill"},
    "w1": {"w1-p": "prefill", "w1-d": "decode"},
    "w2": {"w2-d": "decode"},
    "s1": {"s1-p": "prefill", "s1-d": "decode"},
}
LINES = {
    ("east", "west"): WanProfile(25e6, 0.02),
    ("east", "south"): WanProfile(12.5e6, 0.04),
}
LONG, SHORT = 3000, 300
WAIT_S = 90.0


def until(condition: Any, what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"did not happen in time: {what}"
        time.sleep(0.05)


class Fleet:
    """Everything started; `ask` sends one request."""

    def __init__(self, sites: Sites, home: Path) -> None:
        self.sites, self.home = sites, home
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.gateway = free_address()
        self.url = f"http://{self.gateway}"
        self.file = home / "deployment.json"
        deployment = parse_deployment(json.dumps(self._deployment()), source="fleet")
        self.file.write_bytes(msgspec.json.encode(secured(deployment, home / "certs")))
        for machine in ENGINES:
            self.start_agent(machine)
        for machine in ENGINES:
            self._start(f"{machine}-engines", machine, "prfaas.testing.mock_machine",
                        str(self.file), machine)  # fmt: skip
        self._start("gateway", None, "prfaas.cli.main", "gateway", str(self.file))

    def _deployment(self) -> dict[str, Any]:
        return {
            "clusters": [
                {
                    "name": site,
                    "kind": "prfaas" if site == "east" else "pd",
                    "machines": [self._machine(name) for name in names],
                }
                for site, names in MACHINES.items()
            ],
            "links": [
                {"from": "east", "to": "west", "rate": "200 Mbit/s"},
                {"from": "east", "to": "south", "rate": "100 Mbit/s"},
            ],
            "gateway": {"listen": self.gateway, "near": "west", "request_deadline": "60 s"},
            "scheduler": {"policy": "threshold", "threshold": 1024, "link_grace": "500 ms"},
        }

    def _machine(self, name: str) -> dict[str, Any]:
        ours, inside = self.sites.management_address(name), self.sites.address(name)
        return {
            "name": name,
            "agent": {
                "name": f"{name}-agent",
                "listen": "0.0.0.0:7400",
                "advertise": f"{inside}:7400",
                "admin": "0.0.0.0:7401",
                "admin_advertise": f"{ours}:7401",
                "socket": str(self.home / f"{name}.sock"),
                "arena": "32 MiB",
                "slot": "256 KiB",
            },
            "engines": [
                {
                    "name": engine,
                    "role": role,
                    "url": f"http://{ours}:{8000 + number}",
                    "kv_events": "tcp://127.0.0.1:1",
                    "max_num_seqs": 8,
                }
                for number, (engine, role) in enumerate(ENGINES[name].items())
            ],
        }

    def start_agent(self, machine: str) -> None:
        name = f"{machine}-agent"
        self._start(name, machine, "prfaas.cli.main", "agent", str(self.file), "--name", name)

    def _start(self, name: str, machine: str | None, *module: str) -> None:
        command = [sys.executable, "-m", *module]
        with (self.home / f"{name}.log").open("ab") as log:
            how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.processes[name] = (
                subprocess.Popen(command, **how)
                if machine is None
                else self.sites.popen(machine, command, **how)
            )

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes.pop(name).wait()

    def ready(self) -> dict[str, Any]:
        try:
            return call(f"{self.url}/ready").json()
        except OSError:
            return {"ready": False, "warnings": []}

    def metric(self, sample: str) -> float | None:
        try:
            page = call(f"{self.url}/metrics").body.decode()
        except OSError:
            return None
        found = [line for line in page.splitlines() if line.startswith(f"{sample} ")]
        return float(found[0].split()[-1]) if found else None

    def whole(self) -> bool:
        """Every engine is used and every line is up."""
        ready = self.ready()
        engines = [name for engines in ENGINES.values() for name in engines]
        lines = [("east", "west"), ("east", "south"), ("west", "west")]
        return (
            ready["ready"]
            and not ready["warnings"]
            and all(self.metric(f'prfaas_gateway_engine_up{{engine="{e}"}}') == 1 for e in engines)
            and all(
                self.metric(f'prfaas_gateway_link_up{{source="{a}",target="{b}"}}') == 1
                for a, b in lines
            )
        )

    def ask(self, number: int, tokens: int) -> Answer:
        """One completion, whose answer is right; returns it."""
        prompt = [(7 * number + i) % 251 for i in range(tokens)]
        body = {"prompt": prompt, "max_tokens": 16}
        answer = call(f"{self.url}/v1/completions", body, timeout_s=WAIT_S)
        assert answer.status == 200, answer.body
        assert answer.json()["choices"][0]["text"] == "".join(expected_words(prompt))
        return answer

    def counters(self) -> Counter[str]:
        """Of all engines together: hand-offs that were read, and those that could not be."""
        total: Counter[str] = Counter()
        for machine, engines in ENGINES.items():
            for number in range(len(engines)):
                ours = self.sites.management_address(machine)
                total.update(call(f"http://{ours}:{8000 + number}/counters").json())
        return total

    def free(self, machine: str) -> bool:
        """Whether the arena holds nothing."""
        url = f"http://{self.sites.management_address(machine)}:7401/metrics"
        with urllib.request.urlopen(url, timeout=WAIT_S) as page:
            lines = page.read().decode().splitlines()
        slots = [line for line in lines if line.startswith('prfaas_agent_slots{state="free"}')]
        return float(slots[0].split()[-1]) == 128

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        sites = stack.enter_context(Sites(MACHINES, LINES))
        fleet = Fleet(sites, tmp_path_factory.mktemp("fleet"))
        stack.callback(fleet.close)
        until(fleet.whole, f"whole: {fleet.ready()}")
        yield fleet


def clusters_of(answer: Answer) -> tuple[str | None, str]:
    """Where a request was prefilled (None: where it was decoded) and decoded, by machine."""
    prefill = answer.headers.get("x-prfaas-prefill-engine")
    decode = answer.headers["x-prfaas-decode-engine"]
    return prefill and prefill.split("-")[0], decode.split("-")[0]


def test_hand_offs_go_from_machine_to_machine(fleet: Fleet) -> None:
    with ThreadPoolExecutor(12) as pool:
        lengths = [SHORT if number % 3 == 0 else LONG for number in range(48)]
        answers = list(pool.map(fleet.ask, range(48), lengths))
    taken = Counter(clusters_of(answer) for answer in answers)
    routes = Counter(answer.headers["x-prfaas-route"].split(";")[0] for answer in answers)
    assert routes == {"offload": 32, "pd-p": 16}, taken
    # Both machines of the PrfaaS cluster, over the line to both machines of the near PD cluster.
    assert {("e1", "w1"), ("e1", "w2"), ("e2", "w1"), ("e2", "w2")} <= taken.keys()
    assert {("w1", "w1"), ("w1", "w2")} <= taken.keys(), "inside a machine, and between two"
    counted = fleet.counters()
    assert (counted["imported"], counted["recomputed"]) == (48, 0)
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_an_agent_that_is_killed_loses_no_request(fleet: Fleet) -> None:
    until(fleet.whole, "whole before")
    with ThreadPoolExecutor(8) as pool:
        asked: list[Future[Answer]] = []
        for number in range(100, 148):
            asked.append(pool.submit(fleet.ask, number, SHORT if number % 4 == 0 else LONG))
        asked[8].result()
        fleet.kill("w2-agent")
        answers = [future.result() for future in asked]
        until(lambda: bool(fleet.ready()["warnings"]), "the loss is told")
        assert fleet.ready()["ready"]
        after = list(pool.map(fleet.ask, range(200, 212), [LONG] * 12))
    assert len(answers) == 48
    assert {clusters_of(answer)[0] for answer in after} <= {"e1", "e2"}
    assert all(answer.headers["x-prfaas-route"].startswith("offload") for answer in after)
    assert {clusters_of(answer)[1] for answer in after} <= {"w1", "s1"}
    fleet.start_agent("w2")
    until(fleet.whole, "whole again")
    with ThreadPoolExecutor(8) as pool:
        back = list(pool.map(fleet.ask, range(300, 324), [LONG] * 24))
    assert "w2" in {clusters_of(answer)[1] for answer in back}
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_a_line_that_is_cut_is_not_used_and_nothing_is_lost(fleet: Fleet) -> None:
    until(fleet.whole, "whole before")
    router = fleet.sites.lines["east", "west"].namespaces[0]
    device = fleet.sites.lines["east", "west"].devices[0]
    switch = ["ip", "-n", router, "link", "set", device]
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(fleet.ask, number, LONG) for number in range(400, 432)]
        asked[4].result()
        subprocess.run([*switch, "down"], check=True)
        assert len([future.result() for future in asked]) == 32
        link_up = 'prfaas_gateway_link_up{source="east",target="west"}'
        until(lambda: fleet.metric(link_up) == 0, "the cut is seen")
        meanwhile = list(pool.map(fleet.ask, range(500, 508), [LONG] * 8))
    assert {clusters_of(answer) for answer in meanwhile} <= {
        (prefill, decode) for prefill in ("e1", "e2", "w1", "s1") for decode in ("s1", "w1", "w2")
    } - {(e, w) for e in ("e1", "e2") for w in ("w1", "w2")}
    assert any(clusters_of(answer)[1] == "s1" for answer in meanwhile), "its line is up"
