"""A chaos campaign: rounds of faults under load, and what must hold at the end of each.

``python tests/chaos/campaign.py --seconds 60 --seed 7``. The seed draws the faults, whom they
strike, when and how long, and every request; the same seed and number of rounds make the same
campaign (what each process was just doing when it was struck is the machine's). Exit status 1 where
something did not hold; files of the run are kept then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import faults
from faults import Field
from prfaas.testing.fleet_load import Ended, FleetLoad
from prfaas.testing.journal_parts import replays
from prfaas.testing.local_fleet import DEADLINE_S, ENGINES, SLOTS, LocalFleet

CLIENTS = 8
BAD = ("wrong", "lost", "late")
UNSERVED = ("refused", "error")
"""A clear word, which is right while something is struck, and never once all is whole again."""
QUIET_S = 60.0
"""Until memory and descriptors have to be back. Leases end with their deadline at the latest."""
MORE_DESCRIPTORS, MORE_THREADS, MORE_KIB = 24, 24, 96 * 1024
"""Connections are kept for the next request, pools of threads fill up, and what is known of prompts
and of the last minutes is remembered; none of them without end."""


class Strike(NamedTuple):
    """One fault of a round."""

    kind: str
    target: str
    after_s: float
    lasts_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target} at {self.after_s:.1f} s for {self.lasts_s:.1f} s"


def drawn(seed: int, number: int, kinds: list[str], known: dict[str, faults.Kind]) -> list[Strike]:
    """The faults of a round, one for each of ``kinds`` that still finds a target."""
    chance = random.Random(f"{seed}-round-{number}")
    strikes: list[Strike] = []
    for kind in kinds:
        # Never two on one machine; and all gateways are one place: one at least is left in peace.
        taken = {strike.target.partition("-")[0] for strike in strikes}
        targets = [t for t in known[kind][1] if t.partition("-")[0] not in taken]
        if targets:
            after, lasts = chance.uniform(0.2, 1.5), chance.uniform(1.0, 4.0)
            strikes.append(Strike(kind, chance.choice(targets), after, lasts))
    return strikes


class Campaign:
    """All rounds before one fleet."""

    def __init__(self, field: Field, seed: int, *, control: str | None = None) -> None:
        self.field, self.fleet, self.seed = field, field.fleet, seed
        urls = {name: self.fleet.url(name) for name in self.fleet.gateways}
        self.load = FleetLoad(urls, seed=seed, deadline_s=DEADLINE_S)
        self.known = faults.possible(field, control=control)
        self.struck: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.broken: list[str] = []
        self.grown: Counter[str] = Counter()
        """The most that a process had more than at the start, when all was quiet or not yet."""
        self._deck: list[str] = []
        self._chance = random.Random(f"{seed}-deck")
        self._usage: dict[str, dict[str, float]] = {}

    async def begin(self) -> None:
        """Warm up, and write down what a quiet fleet uses."""
        async with self.load.running(CLIENTS):
            await asyncio.sleep(3.0)
        await self._quiet("warm-up")
        self._usage = {name: self.fleet.usage(name) for name in self.fleet.names}

    async def round(self, number: int, *, strikes_at_once: int = 2) -> None:
        """One: faults under load, recovery, quiet, and every invariant."""
        kinds = [self._next_kind() for _ in range(strikes_at_once)]
        strikes = drawn(self.seed, number, kinds, self.known)
        print(f"round {number}: {'; '.join(map(str, strikes))}", flush=True)
        since = len(self.load.ended)
        before = {name: self.fleet.metrics(name) for name in self.fleet.gateways}
        async with self.load.running(CLIENTS):
            await asyncio.gather(*(self._strike(strike) for strike in strikes))
            took = await self._recovered(number)
            whole_at = time.monotonic()
            while len(self._asked_since(whole_at)) < CLIENTS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        ended = self.load.ended[since:]
        await self._quiet(f"round {number}")
        harmed = {faults.harmed_gateway(strike.target) for strike in strikes}
        for name in self.fleet.gateways.keys() - harmed:
            self._compare(number, name, before[name], [e for e in ended if e.gateway == name])
        for when, bad in (
            *(("", e) for e in ended if e.how in BAD),
            *((", asked when all was whole again,", e)
              for e in self._asked_since(whole_at) if e.how in UNSERVED),
        ):  # fmt: skip
            self._break(f"round {number}: request {bad.number} at {bad.gateway}{when} was {bad.how}"
                        f" after {bad.took_s:.1f} s: {bad.told}")  # fmt: skip
        counts = dict(Counter(e.how for e in ended))
        print(f"  whole again after {took:.1f} s; requests: {counts}", flush=True)
        for told, times in Counter(e.told for e in ended if e.how in UNSERVED).items():
            print(f"    {times} x {told[:160]}", flush=True)

    def end(self) -> None:
        """After the last round: what gateways of this release have written replays."""
        for name in self.fleet.gateways:
            if told := replays(self.fleet.journal_parts(name)):
                self._break(f"the journal of {name} does not replay: {told}")

    async def _strike(self, strike: Strike) -> None:
        self.struck[strike.kind] += 1
        await asyncio.sleep(strike.after_s)
        how = self.known[strike.kind][0](self.field, strike.target)
        harming: Any = self.load.harming(faults.harmed_gateway(strike.target))
        with harming:
            try:
                await asyncio.to_thread(how.__enter__)
                await asyncio.sleep(strike.lasts_s)
                await asyncio.to_thread(how.__exit__, None, None, None)
            except (AssertionError, OSError) as error:
                self._break(f"{strike}: {type(error).__name__}: {error}")

    async def _recovered(self, number: int) -> float:
        try:
            took = await asyncio.to_thread(self.fleet.wait, self.fleet.whole, "whole again")
        except TimeoutError as error:
            self._break(f"round {number}: {error}")
            return float("inf")
        self.recoveries.append(took)
        return took

    def _asked_since(self, at: float) -> list[Ended]:
        return [ended for ended in self.load.ended if ended.at >= at]

    async def _quiet(self, when: str) -> None:
        """Nothing is under way, and everything that was lent has been given back."""
        until = time.monotonic() + QUIET_S
        while (left := await asyncio.to_thread(self._left)) and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        for what in left:
            self._break(f"{when}: {what}")

    def _left(self) -> list[str]:
        found = []
        for name, process in self.fleet.processes.items():
            if process.poll() is not None:
                found.append(f"{name} has ended with {process.returncode}")
        for machine in ENGINES:
            page = self.fleet.metrics(f"{machine}-agent")
            free = page.get('prfaas_pool_slots{state="free"}')
            if free != SLOTS:
                found.append(f"{free} of {SLOTS} slots of {machine} are free")
            busy = ("prfaas_pool_lease_waiters", "prfaas_pool_open_transfers")
            found += [f"{machine}: {k} {v:g}" for k, v in page.items() if k.startswith(busy) and v]
        for name in self.fleet.gateways:
            inflight = self.fleet.metrics(name).get("prfaas_gateway_inflight_requests")
            if inflight != 0:
                found.append(f"{name} has {inflight} requests under way")
        for name, before in self._usage.items():
            now = self.fleet.usage(name)
            for what, more in (
                ("descriptors", MORE_DESCRIPTORS), ("threads", MORE_THREADS), ("rss_kib", MORE_KIB)
            ):  # fmt: skip
                self.grown[what] = max(self.grown[what], now[what] - before[what])
                if now[what] > before[what] + more:
                    found.append(f"{name} has {now[what]:g} {what}, {before[what]:g} at the start")
        return found

    def _compare(
        self, number: int, name: str, before: dict[str, float], ended: list[Ended]
    ) -> None:
        after = self.fleet.metrics(name)
        counted: Counter[str] = Counter()
        for sample, value in after.items():
            if sample.startswith("prfaas_gateway_requests_total{"):
                right = 'outcome="ok"' in sample
                counted["right" if right else "not"] += int(value - before.get(sample, 0.0))
        seen = Counter("right" if e.how == "right" else "not" for e in ended)
        if +counted != +seen:
            self._break(f"round {number}: {name} counted {dict(counted)}, clients saw {dict(seen)}")

    def _next_kind(self) -> str:
        if not self._deck:
            self._deck = list(self.known)
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    def _break(self, told: str) -> None:
        self.broken.append(told)
        print(f"  BROKEN {told}", flush=True)


async def run(args: argparse.Namespace, home: Path) -> int:
    """The campaign; its exit status."""
    with contextlib.ExitStack() as stack:
        clocks = faults.make_clocks(home / "clocks")
        disk = stack.enter_context(faults.small_disk())
        fleet = LocalFleet(
            home,
            environment=lambda n: faults.clock_environment(clocks, n) if clocks else {},
            journals=disk or home,
        )
        await asyncio.to_thread(stack.enter_context, fleet)
        campaign = Campaign(Field(fleet, clocks, args.old, disk), args.seed, control=args.control)
        left_out = sorted(faults.KINDS.keys() - campaign.known.keys())
        print(f"{len(campaign.known)} kinds of faults; not possible here: {left_out}", flush=True)
        await campaign.begin()
        until, number = time.monotonic() + args.seconds, 0
        while number < args.rounds if args.rounds else time.monotonic() < until:
            number += 1
            await campaign.round(number, strikes_at_once=args.at_once)
        campaign.end()
        if disk is not None:
            for file in disk.iterdir():
                shutil.copy(file, home)
    slowest = max(campaign.recoveries, default=float("inf"))
    if args.recovery_s and slowest > args.recovery_s:
        campaign.broken.append(f"whole again only {slowest:.1f} s after the cause was gone")
    counts = campaign.load.counts()
    summary = {
        "seed": args.seed, "rounds": number, "kinds": len(campaign.struck),
        "requests": len({e.number for e in campaign.load.ended}), "ended": dict(counts),
        "slowest_recovery_s": round(slowest, 2), "grown": campaign.grown, "broken": campaign.broken,
    }  # fmt: skip
    print(json.dumps(summary, indent=1))
    return 1 if campaign.broken else 0


def main() -> int:
    """Print the seed, run, keep the files of what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, help="instead of seconds")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--at-once", type=int, default=2, help="faults of a round")
    parser.add_argument("--recovery-s", type=float, help="more seconds to be whole again fail")
    parser.add_argument("--old", type=Path, help="src/ of another release, to mix")
    parser.add_argument(
        "--control", choices=faults.CONTROLS, help="a fault that no fleet can stand, and no other"
    )
    args = parser.parse_args()
    args.seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    how = f"--rounds {args.rounds}" if args.rounds else f"--seconds {args.seconds:g}"
    print(f"seed {args.seed}; again: python tests/chaos/campaign.py --seed {args.seed} {how}"
          f" --at-once {args.at_once}", flush=True)  # fmt: skip
    home = Path(tempfile.mkdtemp(prefix="prfaas-chaos-"))
    status = asyncio.run(run(args, home))
    if status:
        print(f"files of the run: {home}")
    else:
        shutil.rmtree(home)
    return status


if __name__ == "__main__":
    sys.exit(main())
