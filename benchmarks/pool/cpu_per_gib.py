"""CPU seconds that agents spend on a GiB, over loopback, with no engine but a mock rank.

    python -m benchmarks.pool.cpu_per_gib [--source SRC]... [--slot "1 MiB"] [--rounds 16]

Starts two agents as processes, hands transfers over remotely (east to west, plaintext) and locally
(inside west), and reads the agents' CPU time from /proc. With ``--source`` (directories to import
prfaas from) several versions are up at once and measured by short turns, so that a noisy machine is
noisy for all of them. Prints JSON: per source mean, median and every round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from prfaas.launch.addresses import free_address

TRANSFER_BYTES = 64 << 20
WAIT_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

DEPLOYMENT = """
clusters:
- name: east
  kind: prfaas
  engines: [{{name: p0, role: prefill}}]
  agent: {{name: b-east, listen: "{a[0]}", admin: "{a[1]}", socket: {run}/b-east,
           plaintext: true, arena: 256 MiB, slot: {slot}}}
- name: west
  kind: pd
  engines: [{{name: pdp, role: prefill}}, {{name: pdd, role: decode}}]
  agent: {{name: b-west, listen: "{a[2]}", admin: "{a[3]}", socket: {run}/b-west,
           plaintext: true, arena: 256 MiB, slot: {slot}}}
links: [{{from: east, to: west}}]
"""


class Child:
    """A module of one version of prfaas as a process."""

    def __init__(self, source: str, *command: str) -> None:
        environment = {**os.environ, "PYTHONPATH": source}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, line: str) -> str:
        """One line in, one line out."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def cpu_s(self) -> float:
        """User and system time so far, of all threads."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text()
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS_PER_S

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=WAIT_S)


class Site:
    """Two agents and two ranks of one version."""

    def __init__(self, source: str, slot: str, run: Path) -> None:
        addresses = [free_address() for _ in range(4)]
        file = run / "deployment.yaml"
        file.write_text(DEPLOYMENT.format(a=addresses, run=run, slot=slot))
        self.urls = {"b-east": addresses[1], "b-west": addresses[3]}
        self.agents = {
            name: Child(source, "prfaas.cli.main", "agent", str(file), "--name", name)
            for name in self.urls
        }
        for name in self.urls:
            self._until_up(name)
        rank = "prfaas.testing.mock_engine_rank"
        self.ranks = {
            "remote": Child(source, rank, str(run / "b-east"), "p0"),
            "local": Child(source, rank, str(run / "b-west"), "pdp"),
        }
        for child in self.ranks.values():
            assert child.read() == "ready"

    def _until_up(self, name: str) -> None:
        end = time.monotonic() + WAIT_S
        while True:
            try:
                self.call("GET", name, "/health")
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def call(self, method: str, agent: str, path: str) -> bytes:
        request = urllib.request.Request(f"http://{self.urls[agent]}{path}", method=method)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            return bytes(answer.read())

    def move(self, how: str, transfers: int) -> float:
        """CPU seconds per GiB of both agents."""
        before = sum(agent.cpu_s() for agent in self.agents.values())
        for number in range(transfers):
            name = f"{how}-{number}-{time.monotonic_ns()}"
            said = self.ranks[how].ask(f"export {name} b-west {TRANSFER_BYTES}")
            assert said == f"exported {name} None", said
            found = json.loads(self.call("GET", "b-west", f"/transfers/{name}?wait_s={WAIT_S}"))
            assert found["state"] == "complete", found
            self.call("DELETE", "b-west", f"/transfers/{name}")
        spent = sum(agent.cpu_s() for agent in self.agents.values()) - before
        return spent / (transfers * TRANSFER_BYTES / (1 << 30))

    def end(self) -> None:
        for child in (*self.ranks.values(), *self.agents.values()):
            child.end()


def measure(sources: list[str], slot: str, gib: float, rounds: int) -> dict[str, object]:
    """By source and kind of hand-off, in CPU seconds per GiB."""
    transfers = max(1, round(gib * (1 << 30) / TRANSFER_BYTES))
    found: dict[str, dict[str, list[float]]] = {s: {"remote": [], "local": []} for s in sources}
    with contextlib.ExitStack() as stack:
        sites = {}
        for source in sources:
            run = stack.enter_context(tempfile.TemporaryDirectory())
            sites[source] = Site(source, slot, Path(run))
            stack.callback(sites[source].end)
            for how in found[source]:
                sites[source].move(how, 2)  # threads and buffers exist from here on
        for number in range(rounds):
            for source in sources if number % 2 == 0 else reversed(sources):
                for how, values in found[source].items():
                    values.append(sites[source].move(how, transfers))
    return {s: {how: _summary(v) for how, v in kinds.items()} for s, kinds in found.items()}


def _summary(values: list[float]) -> dict[str, object]:
    return {
        "mean": round(statistics.mean(values), 3),
        "median": round(statistics.median(values), 3),
        "rounds": [round(value, 2) for value in values],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", action="append", help="where to import prfaas from")
    parser.add_argument("--slot", default="1 MiB")
    parser.add_argument("--gib", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=16)
    options = parser.parse_args()
    here = str(Path(__file__).parents[2] / "src")
    sources = options.source or [here]
    print(json.dumps(measure(sources, options.slot, options.gib, options.rounds), indent=2))


if __name__ == "__main__":
    main()
