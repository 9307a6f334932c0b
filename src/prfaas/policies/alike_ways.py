"""Every way to serve one request that can be the best, where profiles say which engines are alike.

Theory of operation. The ways are those of `route_choice.candidates`, less those that another beats
for any prompt (`alike`), since its engine is as fast, is free no later and has no more before it.
What is left are a few ways for each cluster and line. The choice is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from prfaas.policies.alike import AlikeFleet, Home
from prfaas.policies.api import Route, View
from prfaas.policies.decode_load import DecodeLoad
from prfaas.policies.route_choice import MAX_DIRECT, MIN_SHARE, Candidate
from prfaas.policies.views import EngineView, LinkView, RequestView

_Way = tuple[float, float, float, int, int, int, int, float]
"""Time to first token, wait for the engine, delay of others; home, kind, source, place (the order
of ways); the time to first token if nothing were before it."""
_DIRECT, _ALONE, _LOCAL, _REMOTE = range(4)
_ROUTES = (Route.DIRECT, Route.DIRECT, Route.PD_P, Route.OFFLOAD)


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
        size = view.costs.kv_bytes(0, request.total_tokens)
        last = view.costs.kv_bytes(0, 0)
        self._ways: list[_Way] = []
        for number, home in enumerate(fleet.homes):
            decode = home.decode()
            if decode is None:
                continue
            slot_s = home.slot_s(loads[number])
            self._beside_decode(number, home)
            if not view.hands_over(request, home.engines[decode].name):
                self._alone(number, home.engines[decode], decode, slot_s)
                continue
            self._local(number, home, slot_s)
            for source, link in home.lines:
                if link.up:
                    self._remote(number, source, link, (size, last), slot_s)

    def soonest(self) -> Candidate | None:
        """See `Ways`."""
        return self._candidate(min(self._ways)) if self._ways else None

    def idle_s(self) -> float:
        """See `Ways`."""
        return min([way[7] for way in self._ways])

    def best(self, limit_s: float, weight: float) -> Candidate | None:
        """See `Ways`."""
        best: _Way | None = None
        best_key = (True, inf, inf, inf, 0, 0, 0, 0)
        for way in self._ways:
            if way[0] <= limit_s:
                far = self._fleet.homes[way[3]].cluster.far
                cost_s = way[0] + weight * way[2]
                key = (far, cost_s, way[1], way[2], way[3], way[4], way[5], way[6])
                if best is None or key < best_key:
                    best, best_key = way, key
        return None if best is None else self._candidate(best)

    def _candidate(self, way: _Way) -> Candidate:
        ttft_s, wait_s, behind_s, number, kind, source, place, idle_s = way
        home = self._fleet.homes[number]
        times = ttft_s, behind_s, idle_s, wait_s
        if kind in (_DIRECT, _ALONE):
            return Candidate(*times, Route.DIRECT, None, home.engines[place])
        engines = home.local.engines if kind == _LOCAL else self._fleet.sources[source].engines
        at = home.decode()
        assert at is not None
        return Candidate(*times, _ROUTES[kind], engines[place], home.engines[at])

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
                if free < MIN_SHARE:
                    break
                if self._fits(home.engines[place]):
                    self._ways.append(
                        (own_s / free, 0.0, 0.0, number, _DIRECT, 0, place, own_s / free)
                    )
                    break
            for place in spare.busy:
                engine = home.engines[place]
                free = 1 - engine.decoding / engine.max_requests
                if free >= MIN_SHARE and engine.prefills < MAX_DIRECT and self._fits(engine):
                    wait_s, idle_s = engine.queued_s / free, own_s / free
                    behind_s = idle_s * engine.prefills
                    self._ways.append(
                        (wait_s + idle_s, wait_s, behind_s, number, _DIRECT, 0, place, idle_s)
                    )

    def _alone(self, number: int, engine: EngineView, place: int, slot_s: float) -> None:
        free = max(MIN_SHARE, 1 - engine.decoding / engine.max_requests)
        own_s = self._own_s(self._costs.alike(engine.name), engine.name) / free
        wait_s = max(engine.queued_s / free, slot_s)
        behind_s = own_s * engine.prefills
        self._ways.append((wait_s + own_s, wait_s, behind_s, number, _ALONE, 0, place, own_s))

    def _fits(self, engine: EngineView) -> bool:
        running = engine.running
        if running >= engine.max_requests:
            return False
        return not running or engine.kv_used + self._kv_tokens <= engine.kv_tokens

    def _local(self, number: int, home: Home, slot_s: float) -> None:
        for queues, fronts in home.local.fronts(self._now):
            own_s = self._own_s(queues.kind, queues.engine)
            for wait_s, place, prefills in fronts:
                ttft_s = max(own_s + wait_s, slot_s)
                behind_s = own_s * prefills
                self._ways.append((ttft_s, wait_s, behind_s, number, _LOCAL, 0, place, own_s))

    def _remote(
        self, number: int, source: int, link: LinkView, size: tuple[float, float], slot_s: float
    ) -> None:
        rate = link.rate_bytes_per_s
        sent_s = size[0] / rate
        carried_s = link.outstanding_bytes / rate + sent_s
        tail_s = size[1] / rate + link.rtt_s / 2
        line_behind_s = sent_s * link.transfers
        each = [
            (self._own_s(queues.kind, queues.engine), fronts)
            for queues, fronts in self._fleet.sources[source].fronts(self._now)
            if fronts
        ]
        # The last of the fronts is free first.
        if not each or carried_s <= min([own_s + fronts[-1][0] for own_s, fronts in each]):
            line_behind_s = 0.0
        for own_s, fronts in each:
            idle_s = max(own_s, sent_s) + tail_s
            for wait_s, place, prefills in fronts:
                behind_s = own_s * prefills + line_behind_s
                ttft_s = max(max(own_s + wait_s, carried_s) + tail_s, slot_s)
                self._ways.append(
                    (ttft_s, wait_s, behind_s, number, _REMOTE, source, place, idle_s)
                )
