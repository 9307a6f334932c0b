"""Three clusters of several machines on emulated lines, with two gateways outside: for tests.

Every machine is a network namespace with a real agent, and engines without a model whose hand-offs
are real bytes (`mock_machine`). Agents are bound on every interface and advertise the address that
others reach.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.deployment import parse_deployment
from prfaas.launch.addresses import free_address
from prfaas.launch.certificates import secured
from prfaas.testing.calling import Answer, call, trust_agents
from prfaas.testing.mock_engine import expected_words
from prfaas.testing.running import end_all
from prfaas.testing.sites import Sites
from prfaas.testing.wan import WanProfile

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
DEADLINES_S = {"gateway": 60, "gateway-2": 60, "gateway-3": 600}
"""Of every gateway's requests. What the third leaves is free in `WAIT_S` only if it is not left to
their deadlines."""
GATEWAYS = tuple(DEADLINES_S)
WAIT_S = 90.0


def until(condition: Any, what: str) -> None:
    """Wait for it; fail with what did not happen."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"did not happen in time: {what}"
        time.sleep(0.05)


class Fleet:
    """Everything started; `ask` sends one request."""

    def __init__(self, sites: Sites, home: Path) -> None:
        self.sites, self.home = sites, home
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.gateways = {name: free_address() for name in GATEWAYS}
        self.urls = [f"http://{address}" for address in self.gateways.values()]
        self.url = self.urls[0]
        self.file = home / "deployment.json"
        deployment = parse_deployment(json.dumps(self._deployment()), source="fleet")
        deployment = secured(deployment, home / "certs")
        trust_agents(deployment)
        self.file.write_bytes(msgspec.json.encode(deployment))
        for machine in ENGINES:
            self.start_agent(machine)
        for machine in ENGINES:
            self.start_engines(machine)
        for name in self.gateways:
            self.start_gateway(name)

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
            "gateways": [
                {
                    "name": name,
                    "listen": address,
                    "near": "west",
                    "request_deadline": f"{DEADLINES_S[name]} s",
                    "drain": "5 s",
                }
                for name, address in self.gateways.items()
            ],
            "scheduler": {"policy": "threshold", "threshold": 1024},
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
                    "url": f"http://127.0.0.1:{8000 + number}",
                    "kv_events": "tcp://127.0.0.1:1",
                    "max_num_seqs": 8,
                }
                for number, (engine, role) in enumerate(ENGINES[name].items())
            ],
        }

    def start_agent(self, machine: str) -> None:
        """The machine's, as a process of its namespace."""
        name = f"{machine}-agent"
        self._start(name, machine, "prfaas.cli.main", "agent", str(self.file), "--name", name)

    def start_engines(self, machine: str) -> None:
        """All of the machine's, in one process."""
        self._start(f"{machine}-engines", machine, "prfaas.testing.mock_machine",
                    str(self.file), machine, "--everywhere")  # fmt: skip

    def start_gateway(self, name: str) -> None:
        """Outside of all namespaces."""
        self._start(name, None, "prfaas.cli.main", "gateway", str(self.file), "--name", name)

    def _start(self, name: str, machine: str | None, *module: str) -> None:
        command = [sys.executable, "-m", *module]
        with (self.home / f"{name}.log").open("ab") as log:
            how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.processes[name] = (
                subprocess.Popen(command, **how)
                if machine is None
                else self.sites.popen(machine, command, **how)
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send the process a signal and wait for its end."""
        self.processes[name].send_signal(number)
        self.processes.pop(name).wait(WAIT_S)

    def log(self, name: str) -> str:
        """All that a process has said."""
        return (self.home / f"{name}.log").read_text()

    def logged(self, name: str, text: str) -> int:
        """How often a process has said so."""
        return self.log(name).count(text)

    def take_over(self, text: str, *, says: str) -> None:
        """Write the file anew and have all gateways read it; returns once all have said so."""
        before = {name: self.logged(name, says) for name in self.gateways}
        self.file.write_text(text)
        for name in self.gateways:
            self.processes[name].send_signal(signal.SIGHUP)
        until(lambda: all(self.logged(name, says) > count for name, count in before.items()), says)

    def drain(self, target: str, *, undo: bool = False) -> None:
        """At all gateways, until nothing is left there."""

        def left() -> int:
            told = [call(f"{url}/drain", {"target": target, "undo": undo}) for url in self.urls]
            assert {answer.status for answer in told} == {200}, told
            return sum(row["requests"] for answer in told for row in answer.json()["drains"])

        until(lambda: left() == 0, f"{target} is empty")

    def ready(self, url: str = "") -> dict[str, Any]:
        """What a gateway's ``/ready`` says; not ready where it does not answer."""
        try:
            said: dict[str, Any] = call(f"{url or self.url}/ready").json()
        except OSError:
            return {"ready": False, "warnings": []}
        return said

    def metric(self, sample: str) -> float | None:
        """A sample of the first gateway's metrics, labels included; None where there is none."""
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

    def ask(self, number: int, tokens: int, url: str = "") -> Answer:
        """One completion, whose answer is right; returns it."""
        prompt = [(7 * number + i) % 251 for i in range(tokens)]
        body = {"prompt": prompt, "max_tokens": 16}
        answer = call(f"{url or self.url}/v1/completions", body, timeout_s=WAIT_S)
        assert answer.status == 200, answer.body
        assert answer.json()["choices"][0]["text"] == "".join(expected_words(prompt))
        return answer

    def insist(self, number: int, tokens: int) -> None:
        """The same, as a client does that asks another gateway where one does not answer."""
        prompt = [(7 * number + i) % 251 for i in range(tokens)]
        body = {"prompt": prompt, "max_tokens": 16}
        end = time.monotonic() + WAIT_S
        turn = number
        while True:
            turn += 1
            try:
                url = self.urls[turn % len(self.urls)]
                answer = call(f"{url}/v1/completions", body, timeout_s=WAIT_S)
            except OSError:
                pass
            else:
                if answer.status == 200:
                    assert answer.json()["choices"][0]["text"] == "".join(expected_words(prompt))
                    return
                assert answer.status in (429, 503), answer.body
            assert time.monotonic() < end, "nobody answers"
            time.sleep(0.1)

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
        url = f"https://{self.sites.management_address(machine)}:7401/metrics"
        lines = call(url, timeout_s=WAIT_S).body.decode().splitlines()
        slots = [line for line in lines if line.startswith('prfaas_pool_slots{state="free"}')]
        return float(slots[0].split()[-1]) == 128

    def close(self) -> None:
        """End every process."""
        end_all(self.processes.values())


def clusters_of(answer: Answer) -> tuple[str | None, str]:
    """Where a request was prefilled (None: where it was decoded) and decoded, by machine."""
    prefill = answer.headers.get("x-prfaas-prefill-engine")
    decode = answer.headers["x-prfaas-decode-engine"]
    return prefill and prefill.split("-")[0], decode.split("-")[0]


class Load:
    """Prompts of both kinds without a pause, six at a time, for as long as the block lasts."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.answered, self._stop = fleet, 0, threading.Event()
        self._numbers = itertools.count(1000)
        self._pool = ThreadPoolExecutor(6)

    def __enter__(self) -> Load:
        self._asking = [self._pool.submit(self._ask) for _ in range(6)]
        self.passes(12)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def ended(self) -> int:
        """All that were asked have been answered, and rightly."""
        self._stop.set()
        return sum(asking.result() for asking in self._asking)

    def passes(self, more: int) -> None:
        """Wait until so many more were answered."""
        wanted = self.answered + more
        until(lambda: self.answered >= wanted or self._failed(), f"{more} answers")
        assert not self._failed(), [a.exception() for a in self._asking if a.done()]

    def _failed(self) -> bool:
        return any(asking.done() for asking in self._asking)

    def _ask(self) -> int:
        count = 0
        while not self._stop.is_set():
            number = next(self._numbers)
            self.fleet.insist(number, SHORT if number % 3 == 0 else LONG)
            count += 1
            self.answered += 1
        return count
