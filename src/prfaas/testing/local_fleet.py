"""A fleet of processes on this machine, without namespaces: for chaos, soak and upgrades.

A PrfaaS cluster of two machines, a PD cluster of two, and gateways: real agents and gateways,
engines without a model whose hand-offs are real bytes (`mock_machine`). What crosses the line goes
through a relay before each receiving agent, where it can be cut, slowed and spoiled. Every process
has an environment of its own, so that one may run other code (another release) or another clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

import prfaas
from prfaas.core.deployment import parse_deployment
from prfaas.launch.addresses import free_address
from prfaas.launch.certificates import secured
from prfaas.testing.calling import call, trust_agents
from prfaas.testing.journal_parts import JournalParts
from prfaas.testing.line_relay import LineRelay
from prfaas.testing.running import end_all

ENGINES = {
    "e1": {"e1-p": "prefill"},
    "e2": {"e2-p": "prefill"},
    "w1": {"w1-p": "prefill", "w1-d": "decode"},
    "w2": {"w2-d": "decode"},
}
PRFAAS = ("e1", "e2")
SLOTS, SLOT_BYTES = 128, 256 * 1024
"""Of every arena."""
THRESHOLD_TOKENS = 1024
DEADLINE_S = 20.0
"""Of a request."""
SOURCE = Path(prfaas.__file__).parent.parent
"""The code that runs here."""
_WAIT_S = 120.0


class LocalFleet:
    """Everything started with ``with``; ends with it.

    Args:
        home: files of the run; also logs and journals, one for each process.
        gateways: how many.
        sources: the code that a process runs, by name, where it is not this one: the folder that
            has ``prfaas``.
        environment: more of a process's environment, by name.
        journals: where gateways write theirs; none without.
        plaintext: without certificates, as releases before mutual TLS to agents know it.
        connections: of each line; None: as many as it asks for.
    """

    def __init__(
        self,
        home: Path,
        *,
        gateways: int = 2,
        sources: Mapping[str, Path] = {},
        environment: Callable[[str], Mapping[str, str]] = lambda _name: {},
        journals: Path | None = None,
        plaintext: bool = False,
        connections: int | None = None,
    ) -> None:
        self.home, self.journals, self._plaintext = home, journals, plaintext
        self._lines = {} if connections is None else {"connections": connections}
        self.sources: dict[str, Path] = dict(sources)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._parts = JournalParts()
        self._environment = environment
        self._stack = contextlib.ExitStack()
        self.gateways = {f"gateway-{n + 1}": free_address() for n in range(gateways)}
        self._links = {m: free_address() for m in ENGINES}
        self.admins = {m: free_address() for m in ENGINES}
        self.engine_addresses = {e: free_address() for es in ENGINES.values() for e in es}
        self._events = {e: (free_address(), free_address()) for e in self.engine_addresses}
        self.relays = {m: LineRelay(self._links[m]) for m in ENGINES if m not in PRFAAS}
        self.file = home / "deployment.json"

    @property
    def names(self) -> list[str]:
        """Of all processes, in the order in which they are started."""
        agents = [f"{machine}-agent" for machine in ENGINES]
        return [*agents, *(f"{machine}-engines" for machine in ENGINES), *self.gateways]

    def __enter__(self) -> LocalFleet:
        self.home.mkdir(parents=True, exist_ok=True)
        deployment = parse_deployment(json.dumps(self._deployment()), source="fleet")
        if not self._plaintext:
            deployment = secured(deployment, self.home / "certs")
            trust_agents(deployment)
        self.file.write_bytes(msgspec.json.encode(deployment))
        for relay in self.relays.values():
            self._stack.enter_context(relay)
        self._stack.callback(self._end)
        try:
            for name in self.names:
                self.start(name)
            self.wait(self.whole, "every process serves")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, name: str) -> str:
        """Of a gateway, an agent's administration, or an engine."""
        if name.endswith("-agent"):
            scheme = "http" if self._plaintext else "https"
            return f"{scheme}://{self.admins[name.removesuffix('-agent')]}"
        return f"http://{(self.gateways | self.engine_addresses)[name]}"

    def link_address(self, machine: str) -> str:
        """Where its agent listens to other agents."""
        return self._links[machine]

    def start(self, name: str, *, prefix: tuple[str, ...] = ()) -> None:
        """A process by its name; ``prefix`` is a command that runs it."""
        module, source = self._module(name), self.sources.get(name, SOURCE)
        if (journal := self._journal(name)) is not None:
            self._parts.begins(journal, source)
        environment = {**os.environ, "PYTHONPATH": str(source)}
        environment.update(self._environment(name))
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*prefix, sys.executable, "-m", *module],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def journal_parts(self, name: str) -> list[bytes]:
        """What gateways of this code have written into a gateway's journal, each by itself: what
        another release did, it need not do. Raises OSError."""
        journal = self._journal(name)
        return [] if journal is None else self._parts.of(journal, SOURCE)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Send a signal that ends it, and wait for its end; its status."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(_WAIT_S)

    def pid(self, name: str) -> int:
        """Of a process that runs."""
        return self.processes[name].pid

    def serves(self, name: str) -> bool:
        """Whether it answers, whatever it answers."""
        machine, _, what = name.partition("-")
        asked = list(ENGINES[machine]) if what == "engines" else [name]
        return all(self._asked(f"{self.url(each)}/health") is not None for each in asked)

    def wait(self, condition: Callable[[], bool], what: str, *, within_s: float = _WAIT_S) -> float:
        """Until it holds; the seconds that took. Raises TimeoutError that says ``what`` did not
        come."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > within_s:
                raise TimeoutError(f"not within {within_s:g} s: {what}; {self.lacks()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def lacks(self) -> list[str]:
        """What keeps the fleet from being whole."""
        found = []
        for name in self.gateways:
            page = self.metrics(name)
            up = {"prfaas_gateway_engine_up", "prfaas_gateway_link_up"}
            down = [k for k, v in page.items() if k.partition("{")[0] in up and v != 1]
            found += [f"{name}: {sample} is 0" for sample in down]
            if not page:
                found.append(f"{name} does not answer")
            elif not down:
                ready = self._asked(f"{self.url(name)}/ready") or {}
                warnings = ready.get("warnings", ["does not answer /ready"])
                found += [f"{name}: {warning}" for warning in warnings]
        return found or [line for machine in ENGINES for line in self._cut_off(machine)]

    def whole(self) -> bool:
        """Every gateway uses every engine and every line, and has nothing to complain of; every
        agent has a connection to each that it sends to: gateways need one pair of a line."""
        return not self.lacks()

    def metrics(self, name: str) -> dict[str, float]:
        """The samples of a process, labels included; empty where it does not answer."""
        try:
            page = call(f"{self.url(name)}/metrics", timeout_s=2.0).body.decode()
        except OSError:
            return {}
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if line[:1] not in ("#", ""))
        return {sample: float(value) for sample, value in lines}

    def free_slots(self, machine: str) -> float:
        """Of the arena of a machine; -1 where the agent does not answer."""
        return self.metrics(f"{machine}-agent").get('prfaas_pool_slots{state="free"}', -1.0)

    def misbehave(self, engine: str, **how: Any) -> None:
        """Have an engine fail so: attributes of a `MockEngine`. Raises OSError where it is down."""
        call(f"{self.url(engine)}/misbehave", how, timeout_s=5.0)

    def usage(self, name: str) -> dict[str, float]:
        """Resident KiB, descriptors and threads of a process."""
        status = Path(f"/proc/{self.pid(name)}/status").read_text()
        lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return {
            "rss_kib": float(lines["VmRSS"].split()[0]) - float(lines["RssShmem"].split()[0]),
            "descriptors": float(len(os.listdir(f"/proc/{self.pid(name)}/fd"))),
            "threads": float(lines["Threads"]),
        }

    @contextlib.contextmanager
    def limited(self, name: str, what: int, soft: int) -> Iterator[None]:
        """A process under another limit of `resource`, for as long as the block lasts."""
        pid = self.pid(name)
        before = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (soft, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, what, before)

    def _cut_off(self, machine: str) -> list[str]:
        page = self.metrics(f"{machine}-agent")
        links = {k: v for k, v in page.items() if k.startswith("prfaas_link_connections{")}
        return [f"{machine}-agent: {k} is 0" for k, v in links.items() if not v]

    def _asked(self, url: str) -> Any:
        try:
            answer = call(url, timeout_s=2.0)
            return answer.json() if answer.body.startswith(b"{") else {}
        except (OSError, ValueError):
            return None

    def _module(self, name: str) -> tuple[str, ...]:
        machine, _, what = name.partition("-")
        if name in self.gateways:
            journal = self._journal(name)
            events = ("--events", str(journal)) if journal else ()
            return ("prfaas.cli.main", "gateway", str(self.file), "--name", name, *events)
        if what == "agent":
            return ("prfaas.cli.main", "agent", str(self.file), "--name", name)
        return ("prfaas.testing.mock_machine", str(self.file), machine, "--kv-events")

    def _journal(self, name: str) -> Path | None:
        if self.journals is None or name not in self.gateways:
            return None
        return self.journals / f"{name}.jsonl"

    def _end(self) -> None:
        end_all(self.processes.values())
        self.processes.clear()

    def _deployment(self) -> dict[str, Any]:
        via = {f"{machine}-agent": relay.address for machine, relay in self.relays.items()}
        return {
            "clusters": [
                {"name": "east", "kind": "prfaas", "machines": [self._machine(m) for m in PRFAAS]},
                {
                    "name": "west",
                    "kind": "pd",
                    "machines": [self._machine(m) for m in ENGINES if m not in PRFAAS],
                    "lan": self._lines,
                },
            ],
            "links": [
                {"from": "east", "to": "west", "rate": "400 Mbit/s", "via": via, **self._lines}
            ],
            "gateways": [
                {
                    "name": name,
                    "listen": address,
                    "near": "west",
                    "request_deadline": f"{DEADLINE_S:g} s",
                    "drain": "5 s",
                }
                for name, address in self.gateways.items()
            ],
            "scheduler": {"policy": "threshold", "threshold": THRESHOLD_TOKENS},
        }

    def _machine(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "agent": {
                "name": f"{name}-agent",
                "listen": self._links[name],
                "admin": self.admins[name],
                "socket": str(self.home / f"{name}.sock"),
                "arena": f"{SLOTS * SLOT_BYTES // 1024} KiB",
                "slot": f"{SLOT_BYTES // 1024} KiB",
                **({"plaintext": True} if self._plaintext else {}),
            },
            "engines": [
                {
                    "name": engine,
                    "role": role,
                    "url": f"http://{self.engine_addresses[engine]}",
                    "kv_events": f"tcp://{self._events[engine][0]}",
                    "kv_events_replay": f"tcp://{self._events[engine][1]}",
                    "max_num_seqs": 8,
                }
                for engine, role in ENGINES[name].items()
            ],
        }
