"""A rolling upgrade under load, and a step back: ``python tests/chaos/upgrade.py --old /old/src``.

A fleet begins with all its processes of another release and is taken to this one as docs/fleet.md
says: each machine is drained, its agent and engines are exchanged, and it takes work again; each
gateway is sent SIGTERM and started anew. Some go back in between, and forward again. Clients never
pause, and ask another gateway only while one is being exchanged. Exit status 1 where a request was
not answered rightly, memory is not free in the end, or what gateways of this release have written
into their journals does not replay (what others wrote need not: they may decide otherwise); files
of the run are kept then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from prfaas.testing.calling import call
from prfaas.testing.fleet_load import FleetLoad
from prfaas.testing.journal_parts import replays
from prfaas.testing.local_fleet import DEADLINE_S, ENGINES, SLOTS, SOURCE, LocalFleet
from prfaas.testing.mock_engine import expected_words

CLIENTS = 6
STEPS = [
    (name.removeprefix("-"), "back" if name.startswith("-") else "forward")
    for name in (
        *("e1", "gateway-1", "w1", "-w1", "w1", "-gateway-1", "gateway-1"),
        *("e2", "w2", "gateway-2", "-w2", "-e1", "w2", "e1"),
    )
]
"""What is exchanged, one after the other; some go back, beside what is new already."""
ANSWERS_BETWEEN = 24
"""So many requests are answered by each mixture of the two releases."""


class Upgrade:
    """Steps between ``old`` (its ``src``) and this release."""

    def __init__(self, fleet: LocalFleet, load: FleetLoad, old: Path) -> None:
        self.fleet, self.load, self.old = fleet, load, old

    async def step(self, what: str, way: str) -> None:
        """Exchange a machine or a gateway, and let the new mixture answer."""
        print(f"{what} goes {way}", flush=True)
        source = self.old if way == "back" else SOURCE
        if what in self.fleet.gateways:
            with self.load.harming(what):
                await asyncio.to_thread(self._exchange, (what,), source)
        else:
            await asyncio.to_thread(self._machine, what, source)
        await asyncio.to_thread(self.fleet.wait, self.fleet.whole, "whole again")
        wanted = len(self.load.ended) + ANSWERS_BETWEEN
        while len(self.load.ended) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def is_free(self) -> bool:
        """Whether no agent holds anything."""
        return all(self.fleet.free_slots(machine) == SLOTS for machine in ENGINES)

    def _machine(self, machine: str, source: Path) -> None:
        self.fleet.wait(lambda: self._drained(machine) == 0, f"{machine} is empty")
        self._exchange((f"{machine}-agent", f"{machine}-engines"), source)
        self._drained(machine, undo=True)

    def _drained(self, machine: str, *, undo: bool = False) -> int:
        """Drain it at all gateways (or no more); the requests that are left there."""
        told = [
            call(f"{self.fleet.url(name)}/drain", {"target": machine, "undo": undo}).json()
            for name in self.fleet.gateways
        ]
        return sum(row["requests"] for answer in told for row in answer["drains"])

    def _exchange(self, names: tuple[str, ...], source: Path) -> None:
        for name in reversed(names):
            self.fleet.kill(name, signal.SIGTERM)
        for name in names:
            self.fleet.sources[name] = source
            self.fleet.start(name)
        for name in names:
            self.fleet.wait(partial(self.fleet.serves, name), f"{name} serves")


def answers_of_both(old: Path) -> Callable[[list[int]], list[str]]:
    """What this release's engines without a model answer, and the other's."""
    spec = spec_from_file_location("mock_engine_of_old", old / "prfaas/testing/mock_engine.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda ids: ["".join(words(ids)) for words in (expected_words, module.expected_words)]


async def run(old: Path, home: Path, *, plaintext: bool) -> list[str]:
    """The whole of it; what went wrong."""
    broken: list[str] = []
    fleet = LocalFleet(home, journals=home, plaintext=plaintext)
    # Certificates and the deployment file are this release's: the old one has to read them.
    fleet.sources.update(dict.fromkeys(fleet.names, old))
    urls = {name: fleet.url(name) for name in fleet.gateways}
    load = FleetLoad(urls, seed=1, deadline_s=DEADLINE_S, right=answers_of_both(old))
    try:
        with fleet:
            upgrade = Upgrade(fleet, load, old)
            async with load.running(CLIENTS):
                for what, way in STEPS:
                    await upgrade.step(what, way)
            await asyncio.to_thread(fleet.wait, upgrade.is_free, "memory is free again")
    except TimeoutError as error:
        broken.append(str(error))
    broken += [
        f"request {ended.number} at {ended.gateway}: {ended.how}: {ended.told}"
        for ended in load.ended
        if ended.how not in ("right", "elsewhere")
    ]
    for name in fleet.gateways:
        if told := replays(fleet.journal_parts(name)):
            broken.append(f"the journal of {name} does not replay: {told}")
    ended = Counter(ended.how for ended in load.ended)
    print(json.dumps({"steps": len(STEPS), "ended": ended, "broken": broken}, indent=1))
    return broken


def main() -> int:
    """Run; keep the files of what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", type=Path, required=True, help="src/ of the other release")
    parser.add_argument(
        "--plaintext", action="store_true", help="where the other release knows no mutual TLS yet"
    )
    args = parser.parse_args()
    if not (args.old / "prfaas").is_dir():
        parser.error(f"{args.old} is no src/ of a release: it has no folder prfaas")
    home = Path(tempfile.mkdtemp(prefix="prfaas-upgrade-"))
    broken = asyncio.run(run(args.old.absolute(), home, plaintext=args.plaintext))
    if broken:
        print(f"files of the run: {home}")
    else:
        shutil.rmtree(home)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
