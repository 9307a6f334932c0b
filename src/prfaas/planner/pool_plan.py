"""A scenario planned by what is found in its pool at its own operating point.

Theory of operation. What is found depends on the threshold, the split and the rate, and these on
what is found. So a plan is made, the trace walked there at 80% of its rate (as TTFT is estimated),
and planned anew of what was seen, until a plan repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import msgspec

from prfaas.models.profiles import PrefillProfile
from prfaas.planner.demand import decode_point
from prfaas.planner.pool_demand import walked_demand
from prfaas.planner.pool_hits import HitPoint, Hits, hit_curve, hits_of
from prfaas.planner.pool_site import PoolSite
from prfaas.planner.pool_walk import Way, walk
from prfaas.planner.scenario import Scenario
from prfaas.planner.split import Split
from prfaas.workload.lengths import EmpiricalLengths

_LOAD = 0.8
_MOST_WALKS = 4
_SAME = 0.01
"""Of Lambda_max: less is no change."""
OnStep = Callable[[str], None]


class WalkedScenario(Scenario, frozen=True, kw_only=True):
    """A scenario whose demand is what a walk has seen."""

    place: PoolSite
    """Where it was: with the instances of the deployment."""
    way: Way
    hits: Hits
    repeats: bool
    """Whether the plan of this demand is the one that the way was taken from."""


def walked_until_same(
    scenario: Scenario,
    site: PoolSite,
    find: Callable[[Scenario], Split],
    *,
    on_step: OnStep = lambda _: None,
) -> WalkedScenario:
    """The scenario as it is found by a plan of itself. ``find`` plans it.

    Raises ConfigError as planning and walking do.
    """
    at = find(scenario)
    for number in range(1, _MOST_WALKS + 1):
        walked = walked_along(scenario, site, way_of(scenario, at), on_step=_walk(on_step, number))
        found = find(walked)
        change = abs(found.lambda_max - at.lambda_max)
        same = found.n_p == at.n_p and change <= _SAME * at.lambda_max
        at = found
        if same:
            break
    return msgspec.structs.replace(walked, repeats=same)


def walked_along(
    scenario: Scenario, site: PoolSite, way: Way, *, on_step: OnStep = lambda _: None
) -> WalkedScenario:
    """The scenario as it is found by one walk."""
    profiles = profiles_of(scenario)
    walked = walk(site, profiles, way, on_step=on_step)
    pd = profiles[site.pd.name]
    prfaas = pd if site.prfaas is None else profiles[site.prfaas.name]
    told = {name: getattr(scenario, name) for name in Scenario.__struct_fields__}
    hits = hits_of(walked)
    told["demand"] = walked_demand(scenario.demand, walked, pd=pd, prfaas=prfaas)
    told["prefix_hit_rate"] = hits.found
    return WalkedScenario(**told, place=site, way=way, hits=hits, repeats=True)


def without_pool(scenario: WalkedScenario) -> Scenario:
    """The scenario if nothing of the trace were cached."""
    told = {name: getattr(scenario, name) for name in Scenario.__struct_fields__}
    lengths = EmpiricalLengths(scenario.place.trace.prompts)
    told["demand"] = msgspec.structs.replace(scenario.demand, lengths=lengths, observed=None)
    return Scenario(**told | {"prefix_hit_rate": 0.0, "site": None})


def way_of(scenario: Scenario, split: Split) -> Way:
    """The way that a plan's requests go."""
    decode = scenario.pd[0].profile.decode_or_refuse
    threshold = split.threshold_tokens
    if threshold is None:
        threshold = -1.0 if split.offloaded_share else inf
    return Way(
        threshold,
        split.n_p,
        decode_point(decode, scenario.demand.tokens_per_s),
        _LOAD * split.lambda_max,
    )


def curve_of(scenario: WalkedScenario, *, on_step: OnStep = lambda _: None) -> list[HitPoint]:
    """Hits by size of memory, at the scenario's operating point."""
    return hit_curve(scenario.place, profiles_of(scenario), scenario.way, on_step=on_step)


def profiles_of(scenario: Scenario) -> dict[str, PrefillProfile]:
    """By cluster."""
    return {c.name: c.profile.prefill_or_refuse for c in scenario.clusters}


def _walk(on_step: OnStep, number: int) -> OnStep:
    return lambda step: on_step(f"walk {number} through the pool, {step}")
