"""The plan: the scenario's deployment beside the ones it competes with, bound, prices, what-ifs.

Theory of operation. The scenario's hardware is planned four ways: PrfaaS-PD as the paper proposes;
*homogeneous PD*, as many GPUs all of the PD kind; the same *at the same cost*, where prices are
given; and *naive heterogeneous PD*, every prompt to the PrfaaS cluster and every PD node decoding.
One PrfaaS cluster, one PD cluster and one line are searched over thresholds and splits; anything
more is a linear program over routes, with whole nodes searched beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.planner.cost import cost_of
from prfaas.planner.demand import Expectations, decode_point
from prfaas.planner.deployments import Deployment, from_fluid, from_split
from prfaas.planner.fluid import FluidOptimum, fluid_optimum
from prfaas.planner.pool_plan import WalkedScenario, walked_until_same
from prfaas.planner.routes import Splits
from prfaas.planner.scenario import Scenario
from prfaas.planner.sites import Cluster
from prfaas.planner.split import Split, TwoClusters
from prfaas.planner.whole_nodes import whole_nodes


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that `prfaas plan` computes about a scenario as it stands."""

    name: str
    deployments: list[Deployment]
    fluid_bound: FluidOptimum
    """With elastic roles: what no policy on this hardware can exceed."""
    profiles: list[str]
    notes: list[str]


def plan(scenario: Scenario, *, on_step: Callable[[str], None] = lambda _: None) -> Plan:
    """Plan a scenario; ``on_step`` hears what is computed next.

    Raises ConfigError where the scenario cannot be served.
    """
    deployments = []
    scenario = walked_through(scenario, on_step=on_step)
    if scenario.prfaas:
        on_step("PrfaaS-PD")
        deployments.append(prfaas_pd(scenario))
    on_step("homogeneous PD")
    for name, what, instances in (
        ("homogeneous_pd", "same GPUs", _same_gpus(scenario)),
        ("homogeneous_pd_same_cost", "same cost", _same_cost(scenario)),
    ):
        if instances is not None:
            deployments.append(_homogeneous(scenario, instances, name, what, on_step))
    if scenario.prfaas:
        on_step("naive heterogeneous PD")
        deployments.append(_naive(scenario, on_step))
    on_step("the bound")
    return Plan(
        name=scenario.name,
        deployments=deployments,
        fluid_bound=elastic_bound(scenario),
        profiles=sorted({c.profile.label for c in scenario.clusters}),
        notes=_notes(scenario),
    )


def elastic_bound(scenario: Scenario) -> FluidOptimum:
    """The fluid optimum with elastic roles: the bound for every policy on this hardware."""
    return fluid_optimum(scenario.demand, scenario.clusters, scenario.lines)


def walked_through(
    scenario: Scenario, *, on_step: Callable[[str], None] = lambda _: None
) -> Scenario:
    """The scenario by what its own deployment finds in its pool; as it is where there is none, or
    that is known. Raises as `plan` does."""
    if scenario.site is None or isinstance(scenario, WalkedScenario):
        return scenario
    n_prfaas, n_pd = sum(c.instances for c in scenario.prfaas), scenario.pd[0].instances
    how = _both(scenario)[0]
    return walked_until_same(
        scenario,
        scenario.site.of(n_prfaas, n_pd),
        lambda found: two_clusters(found).best(n_prfaas, n_pd, how),
        on_step=on_step,
    )


def two_clusters(scenario: Scenario) -> TwoClusters:
    """The threshold model of a scenario with one PrfaaS cluster, one PD cluster and one line."""
    pd = scenario.pd[0].profile
    prfaas = scenario.prfaas[0].profile if scenario.prfaas else pd
    return TwoClusters(
        scenario.demand,
        prfaas=prfaas.prefill_or_refuse,
        pd_prefill=pd.prefill_or_refuse,
        decode=decode_point(pd.decode_or_refuse, scenario.demand.tokens_per_s),
        line_bytes_per_s=scenario.lines[0].bytes_per_s if scenario.lines else 0.0,
    )


def best_split(scenario: Scenario) -> dict[str, tuple[int, int]]:
    """(N_p, N_d) of every PD cluster at the best plan, by exact expectations: what hardware whose
    roles nobody has fixed is divided into. Raises ConfigError where it cannot be served."""
    if len(scenario.pd) == 1 and (scenario.is_two_clusters or not scenario.prfaas):
        n_prfaas = sum(cluster.instances for cluster in scenario.prfaas)
        split = two_clusters(scenario).best(n_prfaas, scenario.pd[0].instances, "exact")
        return {scenario.pd[0].name: (split.n_p, split.n_d)}
    splits = whole_nodes(scenario.demand, scenario.clusters, scenario.lines)
    return {name: (round(n_p), round(n_d)) for name, (n_p, n_d) in splits.items()}


def prfaas_pd(scenario: Scenario) -> Deployment:
    """The scenario's own deployment at its best threshold and split."""
    if not scenario.is_two_clusters:
        splits = whole_nodes(scenario.demand, scenario.clusters, scenario.lines)
        optimum = _routed(scenario, splits)
        return _from_fluid(scenario, "prfaas_pd", "PrfaaS-PD", optimum, splits)
    model = two_clusters(scenario)
    n_prfaas, n_pd = scenario.prfaas[0].instances, scenario.pd[0].instances
    split, other = (model.best(n_prfaas, n_pd, how) for how in _both(scenario))
    return _finish(scenario, "prfaas_pd", "PrfaaS-PD", split, other, scenario.clusters)


def _routed(scenario: Scenario, splits: Splits) -> FluidOptimum:
    return fluid_optimum(scenario.demand, scenario.clusters, scenario.lines, splits=splits)


def _both(scenario: Scenario) -> tuple[Expectations, Expectations]:
    """The expectations to plan with, and the other ones. The linear program's are exact, so what
    is compared with it must be too."""
    several = bool(scenario.prfaas) and not scenario.is_two_clusters
    if several or scenario.expectations == "exact":
        return "exact", "mean-length"
    return "mean-length", "exact"


def _from_fluid(
    scenario: Scenario, name: str, title: str, optimum: FluidOptimum, splits: Splits
) -> Deployment:
    sent = {
        line.name: optimum.utilisation.get(f"line {line.name}", 0.0) * line.bytes_per_s
        for line in scenario.lines
    }
    cost = cost_of(scenario, scenario.clusters, sent, optimum.lambda_max)
    return from_fluid(scenario, name, title, optimum, splits, cost=cost)


def _finish(
    scenario: Scenario, name: str, title: str, split: Split, other: Split, clusters: list[Cluster]
) -> Deployment:
    offloads = any(cluster.kind == "prfaas" for cluster in clusters)
    sent = {line.name: split.egress_bytes_per_s for line in scenario.lines} if offloads else {}
    cost = cost_of(scenario, clusters, sent, split.lambda_max)
    n_pd = split.n_p + split.n_d
    return from_split(scenario, name, title, split, other, n_pd=n_pd, cost=cost)


def _homogeneous(
    scenario: Scenario, instances: int, name: str, what: str, on_step: Callable[[str], None]
) -> Deployment:
    how = _both(scenario)[0]
    if scenario.site is not None and (scenario.prfaas or instances != scenario.pd[0].instances):
        scenario = walked_until_same(
            scenario,
            scenario.site.of(0, instances),
            lambda found: two_clusters(found).best(0, instances, how),
            on_step=lambda step: on_step(f"homogeneous PD, {what}: {step}"),
        )
    model = two_clusters(scenario)
    split, other = (model.best(0, instances, how) for how in _both(scenario))
    cluster = msgspec.structs.replace(scenario.pd[0], instances=instances)
    return _finish(scenario, name, f"homogeneous PD, {what}", split, other, [cluster])


def _naive(scenario: Scenario, on_step: Callable[[str], None]) -> Deployment:
    name, title = "naive_heterogeneous_pd", "naive heterogeneous PD"
    if not scenario.is_two_clusters:
        splits = {cluster.name: (0.0, float(cluster.instances)) for cluster in scenario.pd}
        return _from_fluid(scenario, name, title, _routed(scenario, splits), splits)
    n_prfaas, n_d = scenario.prfaas[0].instances, scenario.pd[0].instances
    if scenario.site is not None:
        how = _both(scenario)[0]
        scenario = walked_until_same(
            scenario,
            scenario.site.of(n_prfaas, n_d),
            lambda found: two_clusters(found).at(0.0, n_prfaas, 0, n_d, how),
            on_step=lambda step: on_step(f"naive heterogeneous PD: {step}"),
        )
    model = two_clusters(scenario)
    split, other = (model.at(0.0, n_prfaas, 0, n_d, how) for how in _both(scenario))
    return _finish(scenario, name, title, split, other, scenario.clusters)


def _same_gpus(scenario: Scenario) -> int:
    gpus = sum(cluster.instances * cluster.profile.gpus for cluster in scenario.clusters)
    return _at_least_two(gpus // scenario.pd[0].profile.gpus)


def _same_cost(scenario: Scenario) -> int | None:
    """PD instances for the money of the GPUs and lines of the scenario, traffic aside."""
    pd = scenario.pd[0]
    rents = [cluster.usd_per_hour for cluster in scenario.clusters]
    if not scenario.prfaas or not pd.usd_per_gpu_hour or None in rents:
        return None
    total = sum(rent for rent in rents if rent) + sum(x.usd_per_hour(0) for x in scenario.lines)
    return _at_least_two(int(total / (pd.usd_per_gpu_hour * pd.profile.gpus)))


def _at_least_two(instances: int) -> int:
    if instances < 2:
        raise ConfigError("the hardware amounts to less than 2 PD instances: nothing to compare")
    return instances


def _notes(scenario: Scenario) -> list[str]:
    notes = [*scenario.notes]
    if isinstance(scenario, WalkedScenario):
        notes.append(
            "the trace is walked through the pool from empty caches, at 80% of Lambda_max of each "
            "deployment; the bound is of what the scenario's own deployment finds"
        )
        if not scenario.repeats:
            notes.append("what is found and the plan do not settle: take figures as rough")
    profiles = {cluster.profile.label: cluster.profile for cluster in scenario.clusters}
    for profile in profiles.values():
        if profile.basis in ("implied", "fit"):
            notes.append(f"profile {profile.label}: {profile.note or profile.source}")
        first = profile.prefill_or_refuse.table.covers_from
        short = scenario.demand.lengths.share_below(first)
        if short > 0:
            notes.append(
                f"profile {profile.label} starts at {first:.0f} tokens; {short:.2%} of the "
                "prompts are shorter and use its first segment continued"
            )
    return notes
