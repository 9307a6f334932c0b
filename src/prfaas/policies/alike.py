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
from typing import Any

from prfaas.policies.alike_queues import Kinds, Source
from prfaas.policies.beside_batch import expected_share
from prfaas.policies.decode_load import DecodeLoad
from prfaas.policies.line_facts import LineFacts
from prfaas.policies.views import ClusterView, Costs, EngineView


class Spare:
    """Decode engines of one PD cluster that are alike. ``kind``: as of `Queues`."""

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.idle: list[tuple[float, int]] = []
        """Those that prefill nothing, the emptiest first: the negative share of their time that
        should be free (`expected_share`), and their places."""
        self.busy: list[int] = []
        """Places of those that prefill already."""


class Home:
    """A PD cluster with its decode engines in the order of their loads."""

    def __init__(
        self, cluster: ClusterView, lines: list[tuple[int, LineFacts[Any]]], kinds: Kinds
    ) -> None:
        self.cluster, self.far = cluster, cluster.far
        self.lines = lines
        """To it: the number of the PrfaaS cluster, and the line."""
        self.engines = cluster.decode_engines
        self.local = Source(cluster.prefill_engines, kinds)
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
        alike: dict[int, Spare] = {}
        for engine in self.engines:
            kind = kinds.of(engine.name)
            if kind not in alike:
                alike[kind] = Spare(kind)
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

    def kind(self, place: int) -> int:
        """The number of the decode engine's kind."""
        return self._spare_of[place].kind

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
            score = engine.assigned / engine.max_requests + float(self.far)
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
        lines: Mapping[tuple[str, str], LineFacts[Any]],
        costs: Costs,
    ) -> None:
        kinds = Kinds(costs)
        self.sources = [Source(source.prefill_engines, kinds) for source in sources]
        self.homes: list[Home] = []
        for home in homes:
            found = [(n, lines.get((s.name, home.name))) for n, s in enumerate(sources)]
            self.homes.append(Home(home, [(n, k) for n, k in found if k is not None], kinds))
        self.kinds = kinds.engines
        """For each kind the name of one of its engines."""
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
