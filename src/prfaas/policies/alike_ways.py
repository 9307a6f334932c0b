"""Every way to serve one request that can be the best, where profiles say which engines are alike.

Theory of operation. The ways are those of `route_choice.candidates`, less those that another beats
for any prompt (`alike`), since its engine is as fast, is free no later and has no more before it.
What is left are a few ways for each cluster and line. The soonest of those of a line, or of a
cluster's own engines, is that of the engine that is free first, so only that one is looked at until
the price of its queue asks for another: a way never costs less than its time to first token, and a
line whose soonest way costs more than the best one has none that is better. The choice is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from prfaas.policies.alike import AlikeFleet, Front, Home, Source
from prfaas.policies.api import Route, View
from prfaas.policies.beside_batch import MAX_DIRECT, MIN_SHARE, expected_share, free_share
from prfaas.policies.decode_load import DecodeLoad
from prfaas.policies.route_choice import Candidate
from prfaas.policies.views import EngineView, LinkView, RequestView

_DIRECT, _ALONE, _LOCAL, _REMOTE = range(4)
_ROUTES = (Route.DIRECT, Route.DIRECT, Route.PD_P, Route.OFFLOAD)


class _Way:
    """``ttft_s``, ``wait_s``, ``behind_s``, ``idle_s``: see `Candidate`; home, kind, source and
    place are the order of ways."""

    __slots__ = ("behind_s", "home", "idle_s", "kind", "place", "source", "ttft_s", "wait_s")

    def __init__(
        self,
        ttft_s: float,
        wait_s: float,
        behind_s: float,
        home: int,
        kind: int,
        source: int,
        place: int,
        idle_s: float,
    ) -> None:
        self.ttft_s, self.wait_s, self.behind_s, self.idle_s = ttft_s, wait_s, behind_s, idle_s
        self.home, self.kind, self.source, self.place = home, kind, source, place

    def goes_before(self, other: _Way) -> bool:
        """Of two that are equal in time or in cost."""
        if self.wait_s != other.wait_s:
            return self.wait_s < other.wait_s
        if self.behind_s != other.behind_s:
            return self.behind_s < other.behind_s
        if self.home != other.home:
            return self.home < other.home
        if self.kind != other.kind:
            return self.kind < other.kind
        if self.source != other.source:
            return self.source < other.source
        return self.place < other.place


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
        self._costs, self._fleet, self._now = view.costs, fleet, now
        self._tokens, self._kv_tokens = max(1, request.total_tokens), request.kv_tokens
        self._prefill_s: dict[object, float] = {}
        self._size = view.costs.kv_bytes(0, request.total_tokens)
        self._last = view.costs.kv_bytes(0, 0)
        self._ways: list[_Way] = []
        """Those that are looked at in any case: of engines that prefill and decode."""
        self._slots: list[tuple[int, float]] = []
        """PD clusters that are handed over to, and when a decode slot is free there."""
        self._bounds: list[float] = []
        """The soonest time to first token of their own prefill engines and of each of their lines,
        in their order; infinite where there is none."""
        self._soonest: _Way | None = None
        self._done: list[tuple[float, float]] = [self._done_s(s) for s in fleet.sources]
        for number, home in enumerate(fleet.homes):
            decode = home.decode()
            if decode is None:
                continue
            slot_s = home.slot_s(loads[number])
            self._beside_decode(number, home)
            if not view.hands_over(request, home.engines[decode].name):
                self._alone(number, home.engines[decode], decode, slot_s)
                continue
            self._slots.append((number, slot_s))
            self._bound(number, home, slot_s)
        for way in self._ways:
            self._take(way)

    def soonest(self) -> Candidate | None:
        """See `Ways`."""
        return None if self._soonest is None else self._candidate(self._soonest)

    def idle_s(self) -> float:
        """See `Ways`."""
        least = min([way.idle_s for way in self._ways], default=inf)
        homes = self._fleet.homes
        for number, _ in self._slots:
            least = min(least, self._done_s(homes[number].local)[1])
            for source, link in homes[number].lines:
                if link.up:
                    sent_s, tail_s = self._size / link.rate_bytes_per_s, self._tail_s(link)
                    least = min(least, max(self._done[source][1], sent_s) + tail_s)
        return least

    def best(self, limit_s: float, weight: float) -> Candidate | None:
        """See `Ways`."""
        if self._soonest is None:
            return None
        homes = self._fleet.homes
        best = _Best(self._soonest, limit_s, weight)
        best.take(self._soonest, homes[self._soonest.home].cluster.far)
        for way in self._ways:
            best.take(way, homes[way.home].cluster.far)
        at = 0
        for number, slot_s in self._slots:
            home = homes[number]
            far = home.cluster.far
            if best.may_be_beaten(self._bounds[at], far):
                self._local(number, home, slot_s, best)
            for source, link in home.lines:
                at += 1
                if best.may_be_beaten(self._bounds[at], far):
                    self._remote(number, source, link, slot_s, best)
            at += 1
        return None if best.way is None else self._candidate(best.way)

    def _candidate(self, way: _Way) -> Candidate:
        kind, place, home = way.kind, way.place, self._fleet.homes[way.home]
        times = way.ttft_s, way.behind_s, way.idle_s, way.wait_s
        if kind in (_DIRECT, _ALONE):
            return Candidate(*times, Route.DIRECT, None, home.engines[place])
        engines = home.local.engines if kind == _LOCAL else self._fleet.sources[way.source].engines
        at = home.decode()
        assert at is not None
        return Candidate(*times, _ROUTES[kind], engines[place], home.engines[at])

    def _take(self, way: _Way) -> None:
        """One that may be the soonest."""
        soonest = self._soonest
        if (
            soonest is None
            or way.ttft_s < soonest.ttft_s
            or (way.ttft_s == soonest.ttft_s and way.goes_before(soonest))
        ):
            self._soonest = way

    def _done_s(self, source: Source) -> tuple[float, float]:
        """When the first engine there would be done, and the fastest if it were idle; infinite
        where none is up."""
        done_s = idle_s = inf
        for queues, front in source.first(self._now):
            own_s = self._own_s(queues.kind, queues.engine)
            done_s = min(done_s, own_s + front[0])
            idle_s = min(idle_s, own_s)
        return done_s, idle_s

    def _tail_s(self, link: LinkView) -> float:
        """What crosses after the prefill has ended."""
        return self._last / link.rate_bytes_per_s + link.rtt_s / 2

    def _bound(self, number: int, home: Home, slot_s: float) -> None:
        """The soonest way over the cluster's own prefill engines, and over each of its lines."""
        local_s = max(self._done_s(home.local)[0], slot_s)
        self._bounds.append(local_s)
        if local_s < inf and (self._soonest is None or local_s <= self._soonest.ttft_s):
            for queues, front in home.local.first(self._now):
                own_s = self._own_s(queues.kind, queues.engine)
                self._take(_own_way(own_s, front, number, slot_s))
        for source, link in home.lines:
            done_s = self._done[source][0]
            bound_s = inf
            if done_s < inf and link.up:
                crossing = _Crossing(link, self._size, self._tail_s(link), done_s)
                bound_s = max(max(done_s, crossing.carried_s) + crossing.tail_s, slot_s)
                if self._soonest is None or bound_s <= self._soonest.ttft_s:
                    for queues, front in self._fleet.sources[source].first(self._now):
                        own_s = self._own_s(queues.kind, queues.engine)
                        self._take(crossing.way(own_s, front, number, source, slot_s))
            self._bounds.append(bound_s)

    def _own_s(self, kind: object, engine: str) -> float:
        """How long an engine of this kind takes to prefill the prompt."""
        seconds = self._prefill_s.get(kind)
        if seconds is None:
            seconds = self._prefill_s[kind] = self._costs.prefill_s(engine, self._tokens)
        return seconds

    def _beside_decode(self, number: int, home: Home) -> None:
        if home.cluster.waiting_for_decode:
            return
        for spare in home.spare:
            own_s = self._own_s(spare.kind, spare.engine)
            for negative, place in spare.idle:
                free = -negative
                if free < MIN_SHARE / 2:  # It was at most halved.
                    break
                engine = home.engines[place]
                if free_share(engine) >= MIN_SHARE and self._fits(engine):
                    self._ways.append(
                        _Way(own_s / free, 0.0, 0.0, number, _DIRECT, 0, place, own_s / free)
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
                        _Way(wait_s + idle_s, wait_s, behind_s, number, _DIRECT, 0, place, idle_s)
                    )

    def _alone(self, number: int, engine: EngineView, place: int, slot_s: float) -> None:
        free = max(MIN_SHARE, 1 - engine.decoding / engine.max_requests)
        own_s = self._own_s(self._costs.alike(engine.name), engine.name) / free
        wait_s = max(engine.queued_s / free, slot_s)
        behind_s = own_s * engine.prefills
        self._ways.append(_Way(wait_s + own_s, wait_s, behind_s, number, _ALONE, 0, place, own_s))

    def _fits(self, engine: EngineView) -> bool:
        running = engine.running
        if running >= engine.max_requests:
            return False
        return not running or engine.kv_used + self._kv_tokens <= engine.kv_tokens

    def _local(self, number: int, home: Home, slot_s: float, best: _Best) -> None:
        far = home.cluster.far
        for queues, fronts in home.local.fronts(self._now):
            own_s = self._own_s(queues.kind, queues.engine)
            for front in fronts:
                if best.may_be_beaten(max(own_s + front[0], slot_s), far):
                    best.take(_own_way(own_s, front, number, slot_s), far)

    def _remote(self, number: int, source: int, link: LinkView, slot_s: float, best: _Best) -> None:
        crossing = _Crossing(link, self._size, self._tail_s(link), self._done[source][0])
        far = self._fleet.homes[number].cluster.far
        for queues, fronts in self._fleet.sources[source].fronts(self._now):
            own_s = self._own_s(queues.kind, queues.engine)
            for front in fronts:
                if best.may_be_beaten(crossing.ttft_s(own_s + front[0], slot_s), far):
                    best.take(crossing.way(own_s, front, number, source, slot_s), far)


def _own_way(own_s: float, front: Front, number: int, slot_s: float) -> _Way:
    """Over a prefill engine of the cluster that decodes."""
    wait_s, place, prefills = front
    return _Way(
        max(own_s + wait_s, slot_s), wait_s, own_s * prefills, number, _LOCAL, 0, place, own_s
    )


class _Crossing:
    """What a hand-off of ``size`` bytes takes of a line. ``done_s``: when the soonest engine at its
    end would be done: where the line is later than that, its transfers are delayed too."""

    def __init__(self, link: LinkView, size: float, tail_s: float, done_s: float) -> None:
        rate = link.rate_bytes_per_s
        self.sent_s = size / rate
        self.carried_s = link.outstanding_bytes / rate + self.sent_s
        self.tail_s = tail_s
        self.behind_s = self.sent_s * link.transfers if self.carried_s > done_s else 0.0

    def ttft_s(self, done_s: float, slot_s: float) -> float:
        """By an engine that is done then."""
        return max(max(done_s, self.carried_s) + self.tail_s, slot_s)

    def way(self, own_s: float, front: Front, number: int, source: int, slot_s: float) -> _Way:
        """By this engine."""
        wait_s, place, prefills = front
        ttft_s = self.ttft_s(own_s + wait_s, slot_s)
        behind_s = own_s * prefills + self.behind_s
        idle_s = max(own_s, self.sent_s) + self.tail_s
        return _Way(ttft_s, wait_s, behind_s, number, _REMOTE, source, place, idle_s)


class _Best:
    """The cheapest way so far (see `Ways.best`). ``way`` None: none is in time."""

    def __init__(self, soonest: _Way, limit_s: float, weight: float) -> None:
        self.way: _Way | None = None
        self._soonest, self._limit_s, self._weight = soonest, limit_s, weight
        self._far, self._cost_s = True, inf
        self._first_of_equals = False

    def may_be_beaten(self, ttft_s: float, far: bool) -> bool:
        """Whether a way with so late a first token can be better."""
        if ttft_s > self._limit_s:
            return False
        if far != self._far:
            return self._far
        return ttft_s < self._cost_s or (ttft_s == self._cost_s and not self._first_of_equals)

    def take(self, way: _Way, far: bool) -> None:
        """One more."""
        cost_s = way.ttft_s + self._weight * way.behind_s
        if way.ttft_s > self._limit_s or (far and not self._far):
            return
        if self.way is not None and far == self._far:
            if cost_s > self._cost_s:
                return
            if cost_s == self._cost_s and not way.goes_before(self.way):
                return
        self.way, self._far, self._cost_s = way, far, cost_s
        # What costs as much as the soonest, which waits for and delays nobody, was compared before.
        self._first_of_equals = way is self._soonest and way.wait_s == way.behind_s == 0
