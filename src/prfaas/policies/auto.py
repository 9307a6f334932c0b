"""``auto``: the cheapest route that meets the SLO, roles that follow the load, early refusal.

Theory of operation. *Per request* every route there is is a candidate (`route_choice`): PrfaaS
clusters over their lines, prefill engines of PD clusters, decode engines with time to spare, each
with what it has cached, for every PD cluster that could decode. Of those whose first token is in
time the cheapest is taken. The cost of a route is its time to first token and the delay that it
brings to others, which weighs the more the less of the SLO is left to the soonest route: while
there is time to spare everybody is served as soon as can be, and when there is not, engines and
lines are left to those who need them most.

Where the gateway stands beside a PD cluster, that one answers as long as it is in time; others take
what it cannot.

*Overload*: where no route is in time, a decode engine that has as many prompts to prefill as it
should is asked whether one more would be in time behind them. If not, the request is refused at
once, with the time after which one like it should make it; but not by a guess, while engines were
not seen at work. Serving it would make it late and those behind it as well. In time means within
the SLO, or within twice of what it takes on an idle deployment where that alone is longer, and
always before the request's deadline.

*Roles* (equation 8): decode gets the engines that its load needs (`decode_load`), prefill the rest
and what time decode engines have free. An engine turns to decode as soon as answers would wait for
a slot without it, and before that where prefill has it to spare; it turns back when it was not
missed for a while, and is drained first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_duration
from prfaas.policies.alike_ways import AlikeWays
from prfaas.policies.api import Decision, Refusal, RoleChange, View
from prfaas.policies.auto_config import AutoConfig
from prfaas.policies.columns import MANY
from prfaas.policies.decode_load import DecodeLoad, slots_s
from prfaas.policies.many_ways import ManyWays
from prfaas.policies.route_choice import Candidate, FewWays, Ways, behind_direct, candidates
from prfaas.policies.views import ClusterView, RequestView

_PERIOD_S = 1.0
_HOLD_S = 60.0
"""How long decode must have an engine too many before one turns to prefill."""
_PATIENCE = 2.0
"""What takes longer than the SLO on an idle deployment is in time within so many times that."""
_LATEST_S = 300.0
"""Where no end is in sight a client is told to ask again after so long."""
_MARGIN = 0.95
"""Of the SLO: estimates are not exact, and what is accepted should make it."""


class AutoPolicy:
    """Takes the cheapest route that is in time, and changes roles. Raises ConfigError for an option
    that is no time."""

    name = "auto"
    packs_decode = True

    def __init__(self, config: AutoConfig) -> None:
        self.period_s: float | None = _PERIOD_S
        self._ttft_s = parse_duration(config.ttft)
        if self._ttft_s <= 0:
            raise ConfigError(f"ttft {config.ttft!r}; write more than 0, for example '10 s'")
        self._loads: dict[str, DecodeLoad] = {}
        self._spare_since: dict[str, float] = {}
        """PD cluster -> since when decode has an engine too many."""

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | Refusal | None:
        """See `Policy.route`."""
        ways = self._ways(request, view, now)
        soonest = ways.soonest()
        if soonest is None:
            return None
        load_s = _load_s(request, view, soonest)
        is_late = soonest.ttft_s + load_s > self._ttft_s * _MARGIN
        behind = _behind_direct(request, view) if is_late else []
        limit_s = min(self._limit_s(ways, load_s, behind, is_late), request.deadline - now)
        there_s = limit_s - load_s  # When the KV cache must be there.
        weight = soonest.ttft_s / there_s if there_s > 0 else 0.0
        best = ways.best(there_s, weight) if soonest.ttft_s <= there_s else None
        if best is None:
            best = next((way for way in behind if way.ttft_s <= limit_s), None)
        if best is not None:
            why = f"first token in {best.ttft_s:.2f} s, the soonest in {soonest.ttft_s:.2f} s"
            return _decision(best, why)
        engine = soonest.prefill or soonest.decode
        if view.costs.knows(engine.name) or request.deadline <= now:
            first_s = min([soonest.ttft_s + load_s, *(way.ttft_s for way in behind)])
            return _refusal(first_s, limit_s)
        return _decision(soonest, "none was seen at work yet")

    def _limit_s(
        self, ways: Ways, load_s: float, behind: Sequence[Candidate], is_late: bool
    ) -> float:
        """Within which time the first token must be out, but for the request's deadline."""
        limit_s = self._ttft_s * _MARGIN
        # No way is sooner on an idle deployment than the soonest is now.
        idle_s = min([ways.idle_s() + load_s, *(way.idle_s for way in behind)]) if is_late else 0.0
        return idle_s * _PATIENCE if idle_s > limit_s else limit_s

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        """Look at every PD cluster's decode load; say which engines change their role."""
        changes: list[RoleChange] = []
        for cluster in view.pd_clusters:
            load = self._load(cluster)
            load.look(cluster, view.costs, now)
            changes += self._change_roles(cluster, load, now)
        return changes

    def _ways(self, request: RequestView, view: View, now: float) -> Ways:
        homes = view.pd_clusters
        if not request.cached and (alike := view.alike) is not None:
            return AlikeWays(request, view, alike, [self._load(home) for home in homes], now)
        if len(view.engines) >= MANY:
            slot_s = slots_s([self._load(home) for home in homes], view.columns)
            return ManyWays(request, view, slot_s, now)
        few = (
            way
            for home in homes
            for way in candidates(request, view, home, self._load(home).slot_s(home), now)
        )
        return FewWays(few, view)

    def _load(self, cluster: ClusterView) -> DecodeLoad:
        load = self._loads.get(cluster.name)
        if load is None:
            load = self._loads[cluster.name] = DecodeLoad()
        return load

    def _change_roles(
        self, cluster: ClusterView, load: DecodeLoad, now: float
    ) -> Iterator[RoleChange]:
        decode = [e for e in cluster.decode_engines if e.up]
        at_ease = load.engines_at_ease(cluster)
        needed = at_ease if load.spares_prefill(cluster) else load.engines_needed(cluster)
        if at_ease >= len(decode):
            self._spare_since[cluster.name] = now
        if needed > len(decode):
            yield from _to_decode(cluster, f"decode needs {needed} engines, has {len(decode)}")
        elif len(decode) > 1 and now - self._spare_since.get(cluster.name, now) >= _HOLD_S:
            self._spare_since[cluster.name] = now
            movable = [e for e in decode if e.changes_role]
            if movable:
                emptiest = min(movable, key=lambda e: e.assigned)
                why = f"decode needs {at_ease} engines, has {len(decode)}"
                yield RoleChange(emptiest.name, "prefill", why)
        self._spare_since.setdefault(cluster.name, now)


def _load_s(request: RequestView, view: View, way: Candidate) -> float:
    """What the decode engine takes to load the KV cache, where it is handed over."""
    if way.prefill is None:
        return 0.0
    return view.costs.load_s(way.decode.name, view.costs.kv_bytes(0, request.total_tokens))


def _behind_direct(request: RequestView, view: View) -> list[Candidate]:
    """`behind_direct` of each PD cluster, near ones first, then by the time to first token."""
    found = [(home, behind_direct(request, view, home)) for home in view.pd_clusters]
    ways = [(home.far, way.ttft_s, way) for home, way in found if way is not None]
    return [way for _, _, way in sorted(ways, key=lambda ranked: ranked[:2])]


def _refusal(ttft_s: float, limit_s: float) -> Refusal:
    late_s = ttft_s - limit_s
    why = f"the first token would take {ttft_s:.1f} s, {late_s:.1f} s too long"
    return Refusal(min(_LATEST_S, max(1.0, late_s)), why)


def _decision(candidate: Candidate, why: str) -> Decision:
    prefill = None if candidate.prefill is None else candidate.prefill.name
    return Decision(candidate.route, prefill, candidate.decode.name, why)


def _to_decode(cluster: ClusterView, why: str) -> Iterator[RoleChange]:
    """One engine: one that drains, or the prefill engine with the least to do."""
    movable = [e for e in cluster.engines if e.up and e.changes_role]
    movable = [e for e in movable if e.draining or e.role == "prefill"]
    if movable:
        engine = min(movable, key=lambda e: (not e.draining, e.free_at))
        yield RoleChange(engine.name, "decode", why)
