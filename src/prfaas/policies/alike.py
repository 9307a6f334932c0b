"""Engines that prefill equally fast, kept in the order of their queues.

Of engines of one cluster that are alike and have equally many prefills before a newcomer, only the
one that is free first can be the best place for it, whatever the prompt. So where profiles say
which engines are alike, an arrival looks at a few engines of each cluster, however many there are.
An engine that changes is put in its new place (`AlikeFleet.take`); where a role, an engine or a
line comes or goes everything is made anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from prfaas.policies.beside_batch import expected_share
from prfaas.policies.decode_load import DecodeLoad
from prfaas.policies.views import ClusterView, Costs, EngineView, LinkView

Front = tuple[float, int, int]
"""Seconds until an engine is free, its place in the list of its cluster, its prefills."""


class Queues:
    """Prefill engines of one cluster that are alike (``kind``: see `Costs.alike`). ``engine``: the
    name of one."""

    def __init__(self, kind: object, engine: str) -> None:
        self.kind, self.engine = kind, engine
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


class Source:
    """A cluster's prefill engines."""

    def __init__(self, engines: Sequence[EngineView], costs: Costs) -> None:
        self.engines = engines
        self.queues: list[Queues] = []
        self._of: list[Queues] = []
        self._put: list[tuple[int, float] | None] = [None] * len(engines)
        self._fronts: list[tuple[Queues, list[Front]]] = []
        self._first: list[tuple[Queues, Front]] = []
        self._at = self._first_at = -inf
        alike: dict[object, Queues] = {}
        for engine in engines:
            kind = costs.alike(engine.name)
            if kind not in alike:
                alike[kind] = Queues(kind, engine.name)
                self.queues.append(alike[kind])
            self._of.append(alike[kind])

    def take(self, place: int) -> None:
        """The engine there has changed."""
        engine, queues, put = self.engines[place], self._of[place], self._put[place]
        new = (engine.prefills, engine.booked_until) if engine.up else None
        if new != put:
            self._at = self._first_at = -inf
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
        if self._first_at != now:
            self._first_at = now
            self._first = []
            for queues in self.queues:
                front = queues.first(now)
                if front is not None:
                    self._first.append((queues, front))
        return self._first


class Spare:
    """Decode engines of one PD cluster that are alike. ``kind``, ``engine``: as of `Queues`."""

    def __init__(self, kind: object, engine: str) -> None:
        self.kind, self.engine = kind, engine
        self.idle: list[tuple[float, int]] = []
        """Those that prefill nothing, the emptiest first: the negative share of their time that
        should be free (`expected_share`), and their places."""
        self.busy: list[int] = []
        """Places of those that prefill already."""


class Home:
    """A PD cluster."""

    def __init__(
        self, cluster: ClusterView, lines: list[tuple[int, LinkView]], costs: Costs
    ) -> None:
        self.cluster = cluster
        self.lines = lines
        """To it: the number of the PrfaaS cluster, and the line."""
        self.engines = cluster.decode_engines
        self.local = Source(cluster.prefill_engines, costs)
        self.spare: list[Spare] = []
        self._spare_of: list[Spare] = []
        self._spare_put: list[float | None] = [None] * len(self.engines)
        self._ranks: list[tuple[float, int]] = []
        """How full those are that are up, and their places: see `placement.decode_engine`."""
        self._ranked: list[float | None] = [None] * len(self.engines)
        self._slots: list[tuple[float, int, int]] = [(0.0, 0, 0)] * len(self.engines)
        """Free slots, answers on their way, answers that run."""
        self._answer_tokens = -1.0
        self._sums: tuple[float, int, int] | None = None
        alike: dict[object, Spare] = {}
        for engine in self.engines:
            kind = costs.alike(engine.name)
            if kind not in alike:
                alike[kind] = Spare(kind, engine.name)
                self.spare.append(alike[kind])
            self._spare_of.append(alike[kind])

    def take(self, place: int) -> None:
        """The decode engine there has changed."""
        engine = self.engines[place]
        self._rank(place, engine)
        self._offer(place, engine)
        self._slots[place] = (-1.0, 0, 0)
        self._sums = None

    def decode(self) -> int | None:
        """The place of the engine that is to decode; None where none is up."""
        return self._ranks[0][1] if self._ranks else None

    def slot_s(self, load: DecodeLoad) -> float:
        """`DecodeLoad.slot_s`."""
        if self._answer_tokens != load.answer_tokens:
            self._answer_tokens = load.answer_tokens
            self._slots = [(-1.0, 0, 0)] * len(self.engines)
            self._sums = None
        if self._sums is None:
            free, ahead, running = 0.0, 0, 0
            for place, slots in enumerate(self._slots):
                if slots[0] < 0:
                    slots = self._slots[place] = _slots(load, self.engines[place])
                free += slots[0]
                ahead += slots[1]
                running += slots[2]
            self._sums = free, ahead, running
        return load.wait_s(*self._sums)

    def _rank(self, place: int, engine: EngineView) -> None:
        score = None
        if engine.up:
            score = engine.assigned / engine.max_requests + float(self.cluster.far)
            if engine.unpaired:
                score += 1.0
        was = self._ranked[place]
        if score != was:
            if was is not None:
                del self._ranks[bisect_left(self._ranks, (was, place))]
            if score is not None:
                insort(self._ranks, (score, place))
            self._ranked[place] = score

    def _offer(self, place: int, engine: EngineView) -> None:
        spare, was = self._spare_of[place], self._spare_put[place]
        key: float | None = None
        if engine.up:
            key = 1.0 if engine.prefills else -expected_share(engine)
        if key == was:
            return
        if was == 1.0:
            spare.busy.remove(place)
        elif was is not None:
            del spare.idle[bisect_left(spare.idle, (was, place))]
        if key == 1.0:
            spare.busy.append(place)
        elif key is not None:
            insort(spare.idle, (key, place))
        self._spare_put[place] = key


def _slots(load: DecodeLoad, engine: EngineView) -> tuple[float, int, int]:
    running = engine.running
    if not engine.up:
        return 0.0, engine.assigned - running, 0
    return load.free_slots(engine), engine.assigned - running, running


class AlikeFleet:
    """All engines with a part to play.

    Args:
        homes, sources: the PD clusters and the PrfaaS clusters.
        lines: (source, target) -> the line.
    """

    def __init__(
        self,
        homes: Sequence[ClusterView],
        sources: Sequence[ClusterView],
        lines: Mapping[tuple[str, str], LinkView],
        costs: Costs,
    ) -> None:
        self.sources = [Source(source.prefill_engines, costs) for source in sources]
        self.homes: list[Home] = []
        for home in homes:
            found = [(n, lines.get((s.name, home.name))) for n, s in enumerate(sources)]
            self.homes.append(Home(home, [(n, k) for n, k in found if k is not None], costs))
        self._clusters = list(sources)
        self._decode = {e.name: (h, p) for h in self.homes for p, e in enumerate(h.engines)}
        every = [*self.sources, *(home.local for home in self.homes)]
        self._prefill = {e.name: (s, p) for s in every for p, e in enumerate(s.engines)}
        for placed, place in self._decode.values():
            placed.take(place)
        for source, place in self._prefill.values():
            source.take(place)

    def fits(self) -> bool:
        """Whether every engine still has the part that it had."""
        for home in self.homes:
            cluster = home.cluster
            if cluster.decode_engines is not home.engines:
                return False
            if cluster.prefill_engines is not home.local.engines:
                return False
        return all(
            cluster.prefill_engines is source.engines
            for cluster, source in zip(self._clusters, self.sources, strict=True)
        )

    def take(self, engines: Iterable[EngineView]) -> None:
        """These have changed."""
        for engine in engines:
            decode = self._decode.get(engine.name)
            if decode is not None:
                decode[0].take(decode[1])
            prefill = self._prefill.get(engine.name)
            if prefill is not None:
                prefill[0].take(prefill[1])
