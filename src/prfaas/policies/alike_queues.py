"""Prefill engines that are equally fast, in the order in which a prompt would look at them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import inf

from prfaas.policies.views import Costs, EngineView

Front = tuple[float, int, int]
"""Seconds until an engine is free, its place in the list of its cluster, its prefills."""


class Queues:
    """Prefill engines of one cluster that are alike. ``kind``: its number, see `AlikeFleet`."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self._idle: list[int] = []
        """Places of those that can begin at once."""
        self._waiting: dict[int, list[tuple[float, int]]] = {}
        """Number of prefills -> when they should be done, and the engine's place; in order."""

    def put(self, place: int, prefills: int, until: float) -> None:
        """One that is up."""
        insort(self._waiting.setdefault(prefills, []), (until, place))

    def drop(self, place: int, prefills: int, until: float) -> None:
        """One that was put so."""
        waiting = self._waiting.get(prefills, [])
        at = bisect_left(waiting, (until, place))
        if at < len(waiting) and waiting[at] == (until, place):
            del waiting[at]
        else:
            del self._idle[bisect_left(self._idle, place)]

    def fronts(self, now: float) -> list[Front]:
        """Of engines with equally many prefills the one that is free first; and no engine that
        another beats in both. The first of equals. ``now`` never falls."""
        found: list[Front] = []
        least = float("inf")
        for prefills in sorted(self._waiting):
            front = self._front(prefills, now)
            if front is not None and front[0] < least:
                least = front[0]
                found.append(front)
        return found

    def first(self, now: float) -> Front | None:
        """The last of the fronts: of all the one that is free first, then with the least before
        it; None where none is up. ``now`` never falls."""
        waiting = self._waiting.get(0)
        if waiting is not None and (waiting or self._idle):
            front = self._front(0, now)
            if front is not None and front[0] <= 0.0:
                return front
        fronts = self.fronts(now)
        return fronts[-1] if fronts else None

    def idle_until(self, now: float) -> float:
        """Until when what `first` found is so, if nothing is put or dropped: for as long as an
        engine is idle, and no other becomes so."""
        if not self._idle:
            return now
        waiting = self._waiting[0]
        return waiting[0][0] if waiting else inf

    def _front(self, prefills: int, now: float) -> Front | None:
        waiting = self._waiting[prefills]
        if not prefills:
            while waiting and waiting[0][0] <= now:
                insort(self._idle, waiting.pop(0)[1])
            if self._idle:
                return 0.0, self._idle[0], 0
        if not waiting:
            return None
        after = bisect_left(waiting, (now, -1))
        best: Front | None = None
        if after < len(waiting):
            until, place = waiting[after]
            best = until - now, place, prefills
        if after:  # Work that is late is expected to take as long again (`EngineView.free_at`).
            until = waiting[after - 1][0]
            late = now + (now - until) - now, waiting[bisect_left(waiting, (until, -1))][1]
            if best is None or late < best[:2]:
                best = late[0], late[1], prefills
        return best


class Kinds:
    """Numbers for engines that are alike (`Costs.alike`). ``engines``: the name of one of each."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._numbers: dict[object, int] = {}
        self.engines: list[str] = []

    def of(self, engine: str) -> int:
        """Its number; a new one where none before was like it."""
        kind = self._costs.alike(engine)
        if kind not in self._numbers:
            self._numbers[kind] = len(self.engines)
            self.engines.append(engine)
        return self._numbers[kind]


class Source:
    """A cluster's prefill engines in the order of their queues."""

    def __init__(self, engines: Sequence[EngineView], kinds: Kinds) -> None:
        self.engines = engines
        self.queues: list[Queues] = []
        self._of: list[Queues] = []
        self._put: list[tuple[int, float] | None] = [None] * len(engines)
        self._fronts: list[tuple[Queues, list[Front]]] = []
        self._first: list[tuple[Queues, Front]] = []
        self._at = self._first_until = -inf
        alike: dict[int, Queues] = {}
        for engine in engines:
            kind = kinds.of(engine.name)
            if kind not in alike:
                alike[kind] = Queues(kind)
                self.queues.append(alike[kind])
            self._of.append(alike[kind])

    def take(self, place: int) -> None:
        """The engine there has changed."""
        engine, queues, put = self.engines[place], self._of[place], self._put[place]
        new = (engine.prefills, engine.booked_until) if engine.up else None
        if new != put:
            self._at = self._first_until = -inf
            if put is not None:
                queues.drop(place, *put)
            if new is not None:
                queues.put(place, *new)
            self._put[place] = new

    def fronts(self, now: float) -> list[tuple[Queues, list[Front]]]:
        """See `Queues`."""
        if self._at != now:
            self._at = now
            self._fronts = [(queues, queues.fronts(now)) for queues in self.queues]
        return self._fronts

    def first(self, now: float) -> list[tuple[Queues, Front]]:
        """Of each kind of which one is up, see `Queues`."""
        if now >= self._first_until:
            self._first, until = [], inf
            for queues in self.queues:
                front = queues.first(now)
                if front is not None:
                    self._first.append((queues, front))
                    until = min(until, queues.idle_until(now))
            self._first_until = until
        return self._first
