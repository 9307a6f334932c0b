"""Break-even prices, and what the plan becomes when one thing changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

import msgspec

from prfaas.planner.compare import prfaas_pd
from prfaas.planner.deployments import Deployment
from prfaas.planner.pool_hits import UNBOUNDED
from prfaas.planner.pool_plan import WalkedScenario, walked_along, without_pool
from prfaas.planner.scenario import Scenario
from prfaas.planner.sites import HOURS_PER_MONTH

_MOST_TIMES = 4
"""So many times the PD instances are tried in place of caches."""


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """What PrfaaS-PD may cost and still serve as many requests per dollar as ``against``.

    Each price is the one that makes both equal while the others stay; negative: never.
    """

    against: str
    prfaas_usd_per_gpu_hour: float
    lines_usd_per_month: float
    """All lines together."""
    traffic_usd_per_gb: float


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """The best PrfaaS-PD plan after one change."""

    change: str
    lambda_max_req_per_s: float
    relative: float
    """To the scenario as it stands."""
    threshold_tokens: float | None
    n_p: int
    n_d: int
    egress_bytes_per_s: float
    binding_constraint: str


def break_even(scenario: Scenario, ours: Deployment, theirs: Deployment) -> BreakEven | None:
    """None where a price is missing or nothing is offloaded."""
    if ours.cost is None or theirs.cost is None or ours.egress_bytes_per_s <= 0:
        return None
    gpus = sum(cluster.instances * cluster.profile.gpus for cluster in scenario.prfaas)
    rent = sum(cluster.usd_per_hour or 0.0 for cluster in scenario.prfaas)
    # What ours may cost per hour at their dollars per request, less what it costs.
    slack = theirs.cost.usd_per_hour / theirs.lambda_max_req_per_s * ours.lambda_max_req_per_s
    slack -= ours.cost.usd_per_hour
    monthly = sum(line.usd_per_month for line in scenario.lines)
    gb_per_hour = ours.egress_bytes_per_s * 3600 / 1e9
    return BreakEven(
        against=theirs.name,
        prfaas_usd_per_gpu_hour=(rent + slack) / gpus,
        lines_usd_per_month=monthly + slack * HOURS_PER_MONTH,
        traffic_usd_per_gb=(ours.cost.traffic_usd_per_hour + slack) / gb_per_hour,
    )


def what_ifs(
    scenario: Scenario, ours: Deployment, *, on_step: Callable[[str], None] = lambda _: None
) -> list[WhatIf]:
    """One change at a time: lines, prefix hits, answers, nodes. What agents' caches hold of a trace
    is found anew where they change, else it is as it was.

    Args:
        ours: PrfaaS-PD as `prfaas.planner.compare.plan` found it.
        on_step: hears each change before it is planned.
    """
    base = ours.lambda_max_req_per_s
    found = []
    for change, changed in _changes(scenario, base, on_step):
        on_step(f"what if: {change}")
        result = prfaas_pd(changed)
        found.append(
            WhatIf(
                change=change,
                lambda_max_req_per_s=result.lambda_max_req_per_s,
                relative=result.lambda_max_req_per_s / base if base else inf,
                threshold_tokens=result.threshold_tokens,
                n_p=result.n_p,
                n_d=result.n_d,
                egress_bytes_per_s=result.egress_bytes_per_s,
                binding_constraint=result.binding_constraint,
            )
        )
    return found


def _changes(
    scenario: Scenario, base: float, on_step: Callable[[str], None]
) -> Iterator[tuple[str, Scenario]]:
    yield from _plain_changes(scenario)
    if isinstance(scenario, WalkedScenario):
        bare = without_pool(scenario)
        yield "no agents' caches", bare
        yield from _made_up_for(bare, base)
        yield from _pool_changes(scenario, on_step)


def _plain_changes(scenario: Scenario) -> list[tuple[str, Scenario]]:
    changes = [
        (f"every line x {factor:g}", _with_lines(scenario, factor))
        for factor in (0.5, 0.1, 0.05, 2)
    ]
    if not isinstance(scenario, WalkedScenario):
        hit_rate = scenario.prefix_hit_rate
        higher = min(2 * hit_rate, (1 + hit_rate) / 2) if hit_rate else 0.5
        text = f"prefix hit rate {hit_rate:.0%} to {higher:.0%}"
        changes.append((text, _with_demand(scenario, shorter=(1 - higher) / (1 - hit_rate))))
    changes.append(("answers twice as long", _with_demand(scenario, longer_answers=2)))
    changes.append(("answers half as long", _with_demand(scenario, longer_answers=0.5)))
    for kind in ("prfaas", "pd"):
        for delta in (1, -1):
            changed = _with_instances(scenario, kind, delta)
            if changed is not None:
                changes.append((f"{delta:+d} {kind} instance in every {kind} cluster", changed))
    return changes


def _pool_changes(
    scenario: WalkedScenario, on_step: Callable[[str], None]
) -> Iterator[tuple[str, Scenario]]:
    def sized(what: str, memory: float, disk: float = 1.0) -> tuple[str, Scenario]:
        site = scenario.place.sized(memory, disk)
        told = f"what if: {what}, "
        return what, walked_along(
            scenario, site, scenario.way, on_step=lambda step: on_step(told + step)
        )

    if any(machine.disk_bytes for machine in scenario.place.machines):
        yield sized("no disk for caches", 1.0, 0.0)
    yield sized("half the memory for caches", 0.5)
    yield sized("twice the memory for caches", 2.0)
    yield sized("no bound to caches in memory", UNBOUNDED)


def _made_up_for(bare: Scenario, base: float) -> Iterator[tuple[str, Scenario]]:
    """The fewest PD instances more that carry ``base`` without caches, if any do."""
    (pd,) = bare.pd
    for more in range(1, _MOST_TIMES * pd.instances):
        changed = _with_instances(bare, "pd", more)
        assert changed is not None
        if prfaas_pd(changed).lambda_max_req_per_s >= base * (1 - 1e-9):
            yield f"no agents' caches, {more * pd.profile.gpus} pd GPUs more", changed
            return


def _with_lines(scenario: Scenario, factor: float) -> Scenario:
    replace = msgspec.structs.replace
    lines = [replace(line, bytes_per_s=line.bytes_per_s * factor) for line in scenario.lines]
    return replace(scenario, lines=lines)


def _with_demand(
    scenario: Scenario, *, shorter: float = 1.0, longer_answers: float = 1.0
) -> Scenario:
    demand = scenario.demand
    changed = msgspec.structs.replace(
        demand,
        lengths=demand.lengths.scaled(shorter),
        output_tokens=demand.output_tokens * longer_answers,
    )
    return msgspec.structs.replace(scenario, demand=changed)


def _with_instances(scenario: Scenario, kind: str, delta: int) -> Scenario | None:
    clusters = []
    for cluster in scenario.clusters:
        count = cluster.instances + (delta if cluster.kind == kind else 0)
        if count < (2 if cluster.kind == "pd" else 1):
            return None
        clusters.append(msgspec.structs.replace(cluster, instances=count))
    return msgspec.structs.replace(scenario, clusters=clusters)
