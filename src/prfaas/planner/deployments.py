"""One deployment planned: its operating point, TTFT and cost, as `prfaas plan --json` prints it."""

from __future__ import annotations

from math import inf

import msgspec

from prfaas.models.profiles import PrefillProfile
from prfaas.planner.cost import Cost
from prfaas.planner.fluid import FluidOptimum
from prfaas.planner.pool_hits import Hits
from prfaas.planner.pool_plan import WalkedScenario
from prfaas.planner.queueing import Pool, Ttft, estimate_ttft, highest_rate
from prfaas.planner.routes import Splits
from prfaas.planner.scenario import Scenario
from prfaas.planner.split import Split


class OtherExpectations(msgspec.Struct, frozen=True, kw_only=True):
    """The same deployment with the other way to average T_prefill over lengths."""

    expectations: str
    lambda_max_req_per_s: float
    threshold_tokens: float | None
    n_p: int
    n_d: int


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A column of the comparison. Throughputs in requests per second; None where a stage is not
    there, or a figure needs a price, a bound on TTFT, or one threshold."""

    name: str
    title: str
    lambda_max_req_per_s: float
    threshold_tokens: float | None
    n_prfaas: int
    n_p: int
    n_d: int
    theta_prfaas_req_per_s: float | None
    theta_pd_p_req_per_s: float | None
    theta_pd_d_req_per_s: float
    offloaded_share: float
    mean_offloaded_tokens: float | None
    egress_bytes_per_s: float
    binding_constraint: str
    gpus: int
    expectations: str
    other_expectations: OtherExpectations | None
    ttft: Ttft | None
    """Without queues, as the paper gives it."""
    ttft_queueing: Ttft | None
    """At 80% of ``lambda_max``, with the queueing estimate."""
    rate_within_ttft_slo_req_per_s: float | None
    cost: Cost | None
    hits: Hits | None = None
    """What it finds of a trace in agents' caches; None where none is walked."""


def from_split(
    scenario: Scenario,
    name: str,
    title: str,
    split: Split,
    other: Split,
    *,
    n_pd: int,
    cost: Cost | None,
) -> Deployment:
    """A deployment of at most one PrfaaS and one PD cluster."""
    pools, demand = _pools(scenario, split), scenario.demand
    gpus = n_pd * scenario.pd[0].profile.gpus
    if split.n_prfaas:
        gpus += split.n_prfaas * scenario.prfaas[0].profile.gpus
    rate = 0.8 * split.lambda_max
    return Deployment(
        name=name,
        title=title,
        lambda_max_req_per_s=split.lambda_max,
        threshold_tokens=split.threshold_tokens,
        n_prfaas=split.n_prfaas,
        n_p=split.n_p,
        n_d=split.n_d,
        theta_prfaas_req_per_s=split.theta_prfaas,
        theta_pd_p_req_per_s=split.theta_pd_p,
        theta_pd_d_req_per_s=split.theta_pd_d,
        offloaded_share=split.offloaded_share,
        mean_offloaded_tokens=split.mean_offloaded_tokens,
        egress_bytes_per_s=split.egress_bytes_per_s,
        binding_constraint=split.binding,
        gpus=gpus,
        expectations=split.expectations,
        other_expectations=OtherExpectations(
            expectations=other.expectations,
            lambda_max_req_per_s=other.lambda_max,
            threshold_tokens=other.threshold_tokens,
            n_p=other.n_p,
            n_d=other.n_d,
        ),
        ttft=estimate_ttft(demand.lengths, demand.kv, pools, rate, queueing=False),
        ttft_queueing=estimate_ttft(demand.lengths, demand.kv, pools, rate, queueing=True),
        rate_within_ttft_slo_req_per_s=_rate_within_slo(scenario, pools, split.lambda_max),
        cost=cost,
        hits=scenario.hits if isinstance(scenario, WalkedScenario) else None,
    )


def _rate_within_slo(scenario: Scenario, pools: list[Pool], limit: float) -> float | None:
    if scenario.ttft_s is None:
        return None
    return highest_rate(
        scenario.demand.lengths,
        scenario.demand.kv,
        pools,
        limit=limit,
        ttft_s=scenario.ttft_s,
        percentile=scenario.ttft_percentile,
    )


def _pools(scenario: Scenario, split: Split) -> list[Pool]:
    cut = split.threshold_tokens
    if cut is None:
        cut = -inf if split.offloaded_share else inf
    pools = []
    seen = scenario.demand.observed
    if split.n_prfaas:
        line = scenario.lines[0]
        profile = scenario.prfaas[0].profile.prefill_or_refuse
        remote = Pool(profile, split.n_prfaas, cut, inf, line.bytes_per_s, line.rtt_s)
        if seen is not None:
            remote = msgspec.structs.replace(
                remote,
                fetched_s=seen.prfaas_spread_s or seen.prfaas_s,
                sent_bytes=scenario.demand.sent_bytes(),
            )
        pools.append(remote)
    if split.n_p:
        local: PrefillProfile = scenario.pd[0].profile.prefill_or_refuse
        fetched_s = None if seen is None else seen.pd_spread_s or seen.pd_s
        pools.append(Pool(local, split.n_p, -inf, cut, fetched_s=fetched_s))
    return pools


def from_fluid(
    scenario: Scenario,
    name: str,
    title: str,
    optimum: FluidOptimum,
    splits: Splits,
    *,
    cost: Cost | None,
) -> Deployment:
    """A deployment of several clusters, routed as the linear program says."""
    lam = optimum.lambda_max
    offloaded = lam * optimum.offloaded_share
    lines = [key for key in optimum.utilisation if key.startswith("line ")]
    prefill = [f"{cluster.name} prefill" for cluster in scenario.prfaas]
    local = [f"{cluster.name} prefill" for cluster in scenario.pd]
    decode = [f"{cluster.name} decode" for cluster in scenario.pd]
    n_p = sum(int(n) for n, _ in splits.values())
    n_d = sum(int(n) for _, n in splits.values())
    sent = [f for f in optimum.flows if f.prefill in {c.name for c in scenario.prfaas}]
    return Deployment(
        name=name,
        title=title,
        lambda_max_req_per_s=lam,
        threshold_tokens=optimum.threshold_tokens,
        n_prfaas=sum(c.instances for c in scenario.prfaas) if sent else 0,
        n_p=n_p,
        n_d=n_d,
        theta_prfaas_req_per_s=_theta(optimum, offloaded, prefill + lines) or None,
        theta_pd_p_req_per_s=_theta(optimum, lam - offloaded, local) or None,
        theta_pd_d_req_per_s=_theta(optimum, lam, decode),
        offloaded_share=optimum.offloaded_share,
        mean_offloaded_tokens=(
            sum(f.mean_tokens * f.share for f in sent) / optimum.offloaded_share if sent else None
        ),
        egress_bytes_per_s=optimum.egress_bytes_per_s,
        binding_constraint=", ".join(
            name for name, used in optimum.utilisation.items() if used > 1 - 1e-6
        ),
        gpus=sum(c.instances * c.profile.gpus for c in scenario.clusters),
        expectations="exact",
        other_expectations=None,
        ttft=None,
        ttft_queueing=None,
        rate_within_ttft_slo_req_per_s=None,
        cost=cost,
    )


def _theta(optimum: FluidOptimum, rate: float, resources: list[str]) -> float:
    """What a stage could serve in this mix: its rate over the use of its busiest resource; 0
    where it has no resource."""
    busiest = max(optimum.utilisation.get(name, 0.0) for name in resources)
    return rate / busiest if busiest > 0 else 0.0
