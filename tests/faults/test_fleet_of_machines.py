"""Three clusters of several machines on emulated lines: join, offload, lose an agent, lose a line.

Every machine is a network namespace with a real agent, and engines without a model whose hand-offs
are real bytes; a real gateway stands outside. Agents are bound on every interface and advertise the
address that others reach.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
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
GATEWAYS = ("gateway", "gateway-2", "gateway-3")
SLOTS = 8
"""Of every engine."""
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
        self.gateways = {name: free_address() for name in GATEWAYS}
        self.urls = [f"http://{address}" for address in self.gateways.values()]
        self.url = self.urls[0]
        self.file = home / "deployment.json"
        deployment = parse_deployment(json.dumps(self._deployment()), source="fleet")
        self.file.write_bytes(msgspec.json.encode(secured(deployment, home / "certs")))
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
                    "request_deadline": "60 s",
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
                    "url": f"http://{ours}:{8000 + number}",
                    "kv_events": "tcp://127.0.0.1:1",
                    "max_num_seqs": SLOTS,
                }
                for number, (engine, role) in enumerate(ENGINES[name].items())
            ],
        }

    def start_agent(self, machine: str) -> None:
        name = f"{machine}-agent"
        self._start(name, machine, "prfaas.cli.main", "agent", str(self.file), "--name", name)

    def start_engines(self, machine: str) -> None:
        self._start(f"{machine}-engines", machine, "prfaas.testing.mock_machine",
                    str(self.file), machine)  # fmt: skip

    def start_gateway(self, name: str) -> None:
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
        self.processes[name].send_signal(number)
        self.processes.pop(name).wait(WAIT_S)

    def logged(self, name: str, text: str) -> int:
        """How often a process has said so."""
        return (self.home / f"{name}.log").read_text().count(text)

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
        try:
            return call(f"{url or self.url}/ready").json()
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

    def sessions(self, machine: str) -> list[str]:
        """The gateways that the agent of a machine takes for alive, by name."""
        url = f"http://{self.sites.management_address(machine)}:7401/gateways"
        return [gateway["name"] for gateway in call(url).json()["gateways"]]

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

    def counts(self) -> dict[str, dict[str, int]]:
        """By engine: hand-offs that were read, those that could not be, the most it had at once."""
        return {
            engine: call(
                f"http://{self.sites.management_address(machine)}:{8000 + number}/counters"
            ).json()
            for machine, engines in ENGINES.items()
            for number, engine in enumerate(engines)
        }

    def counters(self) -> Counter[str]:
        """Of all engines together."""
        total: Counter[str] = Counter()
        for counts in self.counts().values():
            total.update(counts)
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


def request(number: int, tokens: int) -> dict[str, Any]:
    """The body of one, for those who do not wait for its answer."""
    return {"prompt": [(7 * number + i) % 251 for i in range(tokens)], "max_tokens": 16}


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
    anew = [a.headers["x-prfaas-route"] for a in answers if a.headers["x-prfaas-attempts"] != "1"]
    assert routes == {"offload": 32, "pd-p": 16}, (taken, anew)
    assert {prefill for prefill, _ in taken} == {"e1", "e2", "w1"}
    # Both machines of the PrfaaS cluster, over the line to both machines of the near PD cluster,
    # and inside a machine, and between two. Where a line is full they may go to the other cluster.
    wanted = {*itertools.product(("e1", "e2"), ("w1", "w2")), ("w1", "w1"), ("w1", "w2")}
    numbers = itertools.count(600)

    def all_taken() -> bool:
        if not wanted <= taken.keys():
            with ThreadPoolExecutor(12) as pool:
                more = pool.map(fleet.ask, itertools.islice(numbers, 12), [SHORT, LONG, LONG] * 4)
                taken.update(clusters_of(answer) for answer in more)
        return wanted <= taken.keys()

    until(all_taken, f"hand-offs over every pair of machines: {taken}")
    counted = fleet.counters()
    assert (counted["imported"], counted["recomputed"]) == (taken.total(), 0)
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_three_gateways_together_keep_engines_within_their_slots(fleet: Fleet) -> None:
    until(lambda: fleet.whole() and all(fleet.ready(url)["ready"] for url in fleet.urls), "whole")
    until(lambda: all(len(fleet.sessions(m)) == len(GATEWAYS) for m in ENGINES), "sessions")
    with ThreadPoolExecutor(90) as pool:
        urls = itertools.cycle(fleet.urls)
        lengths = itertools.cycle([SHORT, SHORT, SHORT, SHORT, LONG])
        asked = [pool.submit(fleet.ask, n, next(lengths), next(urls)) for n in range(5000, 5180)]
        assert len([future.result() for future in asked]) == 180
    most = {engine: counts["most_under_way"] for engine, counts in fleet.counts().items()}
    print(f"the most that engines of {SLOTS} slots had at once: {most}")
    assert max(most.values()) <= SLOTS + len(GATEWAYS)
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


def test_what_a_killed_gateway_leaves_is_free_long_before_its_deadlines(fleet: Fleet) -> None:
    until(lambda: fleet.whole() and all(fleet.ready(url)["ready"] for url in fleet.urls), "whole")
    url = fleet.urls[2]
    with ThreadPoolExecutor(24) as pool:
        for number in range(6000, 6024):
            pool.submit(call, f"{url}/v1/completions", request(number, LONG))
        until(lambda: not all(fleet.free(machine) for machine in ENGINES), "hand-offs under way")
        fleet.kill("gateway-3")
        killed_at = time.monotonic()
        until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")
        took_s = time.monotonic() - killed_at
    print(f"free {took_s:.1f} s after it was killed; transfers had 60 s")
    assert took_s < 20.0, "after five silent seconds, on a machine that may be slow"
    until(lambda: all(len(fleet.sessions(m)) == 2 for m in ENGINES), "it is counted no more")
    for number in range(6000, 6003):
        fleet.insist(number, LONG)
    fleet.start_gateway("gateway-3")
    until(lambda: bool(fleet.ready(url)["ready"]), "it is back")


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
    numbers = itertools.count(300)

    def w2_is_used() -> bool:  # Once its engine has registered with the agent again.
        with ThreadPoolExecutor(8) as pool:
            back = list(pool.map(fleet.ask, itertools.islice(numbers, 16), [LONG] * 16))
        return "w2" in {clusters_of(answer)[1] for answer in back}

    until(w2_is_used, "w2 takes hand-offs again")
    until(lambda: all(fleet.free(machine) for machine in ENGINES), "memory is free again")


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


def test_members_come_and_go_and_every_kind_of_process_dies(fleet: Fleet) -> None:
    until(lambda: fleet.whole() and all(fleet.ready(url)["ready"] for url in fleet.urls), "whole")
    text = fleet.file.read_text()
    with Load(fleet) as load:
        # A machine is upgraded: drained, ended in order, started anew.
        fleet.drain("w2")
        load.passes(12)
        fleet.kill("w2-engines", signal.SIGTERM)
        fleet.kill("w2-agent", signal.SIGTERM)
        load.passes(12)
        fleet.start_agent("w2")
        fleet.start_engines("w2")
        until(fleet.whole, "w2 is back")
        fleet.drain("w2", undo=True)
        load.passes(12)
        # A bad file is refused, then one without a cluster is taken, then the first again.
        fleet.take_over(text[: len(text) // 2], says="all stays as it was")
        load.passes(6)
        less = json.loads(text)
        less["clusters"] = [c for c in less["clusters"] if c["name"] != "south"]
        less["links"] = [k for k in less["links"] if k["to"] != "south"]
        fleet.take_over(json.dumps(less), says="engine s1-d has left the deployment")
        load.passes(12)
        fleet.take_over(text, says="engine s1-d joins cluster south")
        until(fleet.whole, "south is back")
        # A gateway ends in order, and one is killed.
        fleet.kill("gateway-2", signal.SIGTERM)
        load.passes(12)
        fleet.start_gateway("gateway-2")
        until(lambda: bool(fleet.ready(fleet.urls[1])["ready"]), "gateway-2 is back")
        fleet.kill("gateway")
        load.passes(12)
        fleet.start_gateway("gateway")
        until(fleet.whole, "the first gateway is back")
        # Engines and agents of both kinds are killed.
        for victim in ("w1-engines", "e1-engines", "e2-agent", "w1-agent"):
            fleet.kill(victim)
            load.passes(6)
            machine, _, what = victim.partition("-")
            (fleet.start_agent if what == "agent" else fleet.start_engines)(machine)
            until(fleet.whole, f"{victim} is back")
            load.passes(6)
        assert load.ended() == load.answered
    print(f"{load.answered} requests, none lost, none wrong")
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
