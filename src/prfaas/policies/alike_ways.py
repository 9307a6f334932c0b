"""Every way to serve one request that can be the best, where profiles say which engines are alike.

Theory of operation. The ways are those of `route_choice.candidates`, less those that another beats
for any prompt (`alike`), since its engine is as fast, is free no later and has no more before it.
What is left are a few ways for each cluster and line. The soonest of those of a line, or of a
cluster's own engines, is that of the engine that is free first, so only that one is looked at until
the price of its queue asks for another: a way never costs less than its time to first token, and a
line whose soonest way costs more than the best one has none that is better. Nor is any way of a PD
cluster sooner than it would be with idle lines and decode slots: where that is no better than what
was found, the cluster is not looked at. The choice is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from prfaas.policies.alike import AlikeFleet, Home
from prfaas.policies.alike_queues import Source
from prfaas.policies.alike_way import (
    ALONE,
    DIRECT,
    LOCAL,
    Cheapest,
    Crossing,
    Way,
    own_way,
)
from prfaas.policies.api import Route, View
from prfaas.policies.beside_batch import MAX_DIRECT, MIN_SHARE, expected_share, free_share
from prfaas.policies.decode_load import DecodeLoad
from prfaas.policies.line_facts import LineFacts
from prfaas.policies.route_choice import Candidate
from prfaas.policies.views import EngineView, RequestView

_ROUTES = (Route.DIRECT, Route.DIRECT, Route.PD_P, Route.OFFLOAD)
_NOT_LOOKED_AT = -2.0
_NO_HANDOFFS = -1.0
"""In place of seconds."""


class AlikeWays:
    """`Ways` of one request of which nothing is cached. ``loads``: of each PD cluster."""

    def __init__(
        self,
        request: RequestView,
        view: View,
        fleet: AlikeFleet,
        loads: Sequence[DecodeLoad],
        now: float,
    ) -> None:
        self._request, self._view, self._loads = request, view, loads
        self._fleet, self._now = fleet, now
        self._tokens, self._kv_tokens = max(1, request.total_tokens), request.kv_tokens
        self._prefill_s = [-1.0] * len(fleet.kinds)
        """By kind of engine; below 0: not asked for yet."""
        self._size: float = view.costs.kv_bytes(0, request.total_tokens)
        self._last: float = view.costs.kv_bytes(0, 0)
        self._ways: list[Way] = []
        """Of engines that prefill and decode, of the PD clusters that were looked at."""
        self._slot_s: list[float] = [_NOT_LOOKED_AT] * len(fleet.homes)
        """When a decode slot is free in each PD cluster."""
        self._soonest: Way | None = None
        self._done: list[float] = [self._done_s(source) for source in fleet.sources]
        self._done_here: list[float] = [self._done_s(home.local) for home in fleet.homes]
        self._least: list[float] = []
        """No way of that PD cluster is sooner."""
        for number, home in enumerate(fleet.homes):
            least = self._least_s(number, home)
            self._least.append(least)
            if self._may_be_soonest(least):
                self._look(number, home)

    def soonest(self) -> Candidate | None:
        """See `Ways`."""
        return None if self._soonest is None else self._candidate(self._soonest)

    def idle_s(self) -> float:
        """See `Ways`."""
        least = inf
        homes = self._fleet.homes
        idle = [self._idle_s(source) for source in self._fleet.sources]
        for number, home in enumerate(homes):
            if self._slot_s[number] == _NOT_LOOKED_AT:
                self._look(number, home)
            if self._slot_s[number] < 0:
                continue
            least = min(least, self._idle_s(home.local))
            for source, link in home.lines:
                if link.up:
                    sent_s = self._size / link.rate.at(self._now)
                    least = min(least, max(idle[source], sent_s) + self._tail_s(link))
        return min(least, min([way.idle_s for way in self._ways], default=inf))

    def best(self, limit_s: float, weight: float) -> Candidate | None:
        """See `Ways`."""
        if self._soonest is None:
            return None
        homes = self._fleet.homes
        best = Cheapest(self._soonest, limit_s, weight)
        best.take(self._soonest, homes[self._soonest.home].far)
        for way in self._ways:
            best.take(way, homes[way.home].far)
        for number, home in enumerate(homes):
            far = home.far
            if not best.may_be_beaten(self._least[number], far):
                continue
            if self._slot_s[number] == _NOT_LOOKED_AT:
                known = len(self._ways)
                self._look(number, home)
                for way in self._ways[known:]:
                    best.take(way, far)
            slot_s = self._slot_s[number]
            if slot_s < 0:
                continue
            if best.may_be_beaten(max(self._done_here[number], slot_s), far):
                self._local(number, home, slot_s, best)
            for source, link in home.lines:
                bound_s = max(self._done[source] + self._tail_s(link), slot_s)
                if link.up and best.may_be_beaten(bound_s, far):
                    self._remote(number, source, link, slot_s, best)
        return None if best.way is None else self._candidate(best.way)

    def _candidate(self, way: Way) -> Candidate:
        kind, place, home = way.kind, way.place, self._fleet.homes[way.home]
        times = way.ttft_s, way.behind_s, way.idle_s, way.wait_s
        if kind in (DIRECT, ALONE):
            return Candidate(*times, Route.DIRECT, None, home.engines[place])
        engines = home.local.engines if kind == LOCAL else self._fleet.sources[way.source].engines
        at = home.decode()
        assert at is not None
        return Candidate(*times, _ROUTES[kind], engines[place], home.engines[at])

    def _may_be_soonest(self, ttft_s: float) -> bool:
        """Whether a way with so late a first token, which comes after all that were looked at, can
        be the soonest."""
        soonest = self._soonest
        if soonest is None or ttft_s < soonest.ttft_s:
            return ttft_s < inf
        return ttft_s == soonest.ttft_s and (soonest.wait_s > 0 or soonest.behind_s > 0)

    def _take(self, way: Way) -> None:
        """One that may be the soonest."""
        soonest = self._soonest
        if (
            soonest is None
            or way.ttft_s < soonest.ttft_s
            or (way.ttft_s == soonest.ttft_s and way.goes_before(soonest))
        ):
            self._soonest = way

    def _done_s(self, source: Source) -> float:
        """When the first engine there would be done; infinite where none is up."""
        done_s = inf
        for queues, front in source.first(self._now):
            done_s = min(done_s, self._own_s(queues.kind) + front[0])
        return done_s

    def _idle_s(self, source: Source) -> float:
        """How long the fastest there takes."""
        own_s = [self._own_s(queues.kind) for queues, _ in source.first(self._now)]
        return min(own_s, default=inf)

    def _tail_s(self, link: LineFacts[Any]) -> float:
        """What crosses after the prefill has ended."""
        return self._last / link.rate.at(self._now) + link.rtt_s / 2

    def _least_s(self, number: int, home: Home) -> float:
        """No way of this PD cluster is sooner: as if all lines and decode engines were idle."""
        least = self._done_here[number]
        for spare in home.spare:
            least = min(least, self._own_s(spare.kind))
        for source, link in home.lines:
            least = min(least, self._done[source] + self._tail_s(link))
        return least

    def _look(self, number: int, home: Home) -> None:
        """Find the ways of a PD cluster that may be the soonest, and all of its decode engines."""
        self._slot_s[number] = _NO_HANDOFFS
        decode = home.decode()
        if decode is None:
            return
        known = len(self._ways)
        self._beside_decode(number, home)
        slot_s = home.slot_s(self._loads[number])
        gives = self._view.hands_over(self._request, home.engines[decode].name)
        if not gives:
            self._alone(number, home, decode, slot_s)
        for way in self._ways[known:]:
            self._take(way)
        if gives:
            self._slot_s[number] = slot_s
            self._look_at_handoffs(number, home, slot_s)

    def _look_at_handoffs(self, number: int, home: Home, slot_s: float) -> None:
        """Over the cluster's own prefill engines, and over each of its lines."""
        if self._may_be_soonest(max(self._done_here[number], slot_s)):
            for queues, front in home.local.first(self._now):
                self._take(own_way(self._own_s(queues.kind), front, number, slot_s))
        for source, link in home.lines:
            done_s, tail_s = self._done[source], self._tail_s(link)
            if link.up and self._may_be_soonest(max(done_s + tail_s, slot_s)):
                crossing = Crossing(link, self._size, tail_s, done_s, self._now)
                if self._may_be_soonest(crossing.ttft_s(done_s, slot_s)):
                    for queues, front in self._fleet.sources[source].first(self._now):
                        own_s = self._own_s(queues.kind)
                        self._take(crossing.way(own_s, front, number, source, slot_s))

    def _own_s(self, kind: int) -> float:
        """How long an engine of this kind takes to prefill the prompt."""
        seconds = self._prefill_s[kind]
        if seconds < 0:
            seconds = self._view.costs.prefill_s(self._fleet.kinds[kind], self._tokens)
            self._prefill_s[kind] = seconds
        return seconds

    def _beside_decode(self, number: int, home: Home) -> None:
        if home.cluster.waiting_for_decode:
            return
        for spare in home.spare:
            own_s = self._own_s(spare.kind)
            for negative, place in spare.idle:
                free = -negative
                if free < MIN_SHARE / 2:  # It was at most halved.
                    break
                engine = home.engines[place]
                if free_share(engine) >= MIN_SHARE and self._fits(engine):
                    self._ways.append(
                        Way(own_s / free, 0.0, 0.0, number, DIRECT, 0, place, own_s / free)
                    )
                    break
            for place in spare.busy:
                engine = home.engines[place]
                if engine.prefills >= MAX_DIRECT or free_share(engine) < MIN_SHARE:
                    continue
                if self._fits(engine):
                    free = expected_share(engine)
                    wait_s, idle_s = engine.queued_s / free, own_s / free
                    behind_s = idle_s * engine.prefills
                    self._ways.append(
                        Way(wait_s + idle_s, wait_s, behind_s, number, DIRECT, 0, place, idle_s)
                    )

    def _alone(self, number: int, home: Home, place: int, slot_s: float) -> None:
        engine = home.engines[place]
        free = max(MIN_SHARE, 1 - engine.decoding / engine.max_requests)
        own_s = self._own_s(home.kind(place)) / free
        wait_s = max(engine.queued_s / free, slot_s)
        behind_s = own_s * engine.prefills
        self._ways.append(Way(wait_s + own_s, wait_s, behind_s, number, ALONE, 0, place, own_s))

    def _fits(self, engine: EngineView) -> bool:
        running = engine.running
        if running >= engine.max_requests:
            return False
        return not running or engine.kv_used + self._kv_tokens <= engine.kv_tokens

    def _local(self, number: int, home: Home, slot_s: float, best: Cheapest) -> None:
        for queues, fronts in home.local.fronts(self._now):
            own_s = self._own_s(queues.kind)
            for front in fronts:
                if best.may_be_beaten(max(own_s + front[0], slot_s), home.far):
                    best.take(own_way(own_s, front, number, slot_s), home.far)

    def _remote(
        self, number: int, source: int, link: LineFacts[Any], slot_s: float, best: Cheapest
    ) -> None:
        crossing = Crossing(link, self._size, self._tail_s(link), self._done[source], self._now)
        far = self._fleet.homes[number].far
        if not best.may_be_beaten(crossing.ttft_s(self._done[source], slot_s), far):
            return
        for queues, fronts in self._fleet.sources[source].fronts(self._now):
            own_s = self._own_s(queues.kind)
            for front in fronts:
                if best.may_be_beaten(crossing.ttft_s(own_s + front[0], slot_s), far):
                    best.take(crossing.way(own_s, front, number, source, slot_s), far)
