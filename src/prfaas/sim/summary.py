"""One run in a row of numbers."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.core.deployment import EngineRole
from prfaas.description.objectives import Slo
from prfaas.scheduler.commands import ErrorKind
from prfaas.sim.metrics import Column, RequestTable
from prfaas.sim.simulation import Simulation

_SLACK_S = 1e-6
"""A step of exactly the SLO's length meets it, whatever the rounding."""


class Percentiles(msgspec.Struct, frozen=True):
    """How some times are spread, in seconds; NaN where nothing was answered."""

    mean: float
    p50: float
    p90: float
    p99: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Rates per second of simulated time over the steady part of the run: from the arrival of the
    tenth part of the requests to the last arrival. Shares 0..1, of answered requests."""

    name: str
    policy: str
    requests: int
    refused: int
    """Requests that were told at once that they would not be in time, and were not begun."""
    lost: int
    """Others without an answer; a run that was cut short counts those it left."""
    lost_by_error: dict[str, int]
    offered_req_per_s: float
    throughput_req_per_s: float
    goodput_req_per_s: float
    """Throughput at SLO: answers whose TTFT and TPOT both met it."""
    slo_share: float
    ttft_s: Percentiles
    tpot_s: Percentiles
    offloaded_share: float
    direct_share: float
    egress_mean_bytes_per_s: float
    egress_peak_bytes_per_s: float
    """Of the busiest second."""
    utilisation: dict[str, float]
    """Cluster and role -> busy share: prefill time, or decode slots in use."""
    cached_tokens_share: float
    """Prompt tokens that a prefix cache held when their prefill began."""
    retried: int
    """Requests that needed more than one attempt."""


def summarise(name: str, simulation: Simulation, slo: Slo) -> Summary:
    """What a finished run has shown."""
    failed = {kind.value: count for kind, count in simulation.recorder.failures.items()}
    return summarise_table(
        name,
        simulation.policy_name,
        simulation.recorder.table(),
        egress(simulation),
        slo,
        failed_by_error=failed,
        utilisation=_utilisation(simulation),
    )


def summarise_table(
    name: str,
    policy: str,
    table: RequestTable,
    sent: Column,
    slo: Slo,
    *,
    failed_by_error: dict[str, int],
    utilisation: dict[str, float],
) -> Summary:
    """What requests have shown, wherever they ran. ``sent``: bytes that left the PrfaaS clusters
    in each second; ``utilisation``: empty where it is not known. ``failed_by_error``: requests that
    ended without an answer by `ErrorKind`, those that were refused among them."""
    ttft, tpot = table.ttft_s, table.tpot_s
    answered = ~np.isnan(table.done_at)
    good = answered & (ttft <= slo.ttft_s + _SLACK_S) & (tpot <= slo.tpot_s + _SLACK_S)
    start, end = steady_window(table)
    within = answered & (table.done_at >= start) & (table.done_at < end)
    span = max(end - start, 1e-9)
    prompts = int(table.prompt_tokens[answered].sum())
    refused = failed_by_error.get(ErrorKind.OVERLOADED, 0)
    return Summary(
        name=name,
        policy=policy,
        requests=len(table.arrived_at),
        refused=refused,
        lost=int((~answered).sum()) - refused,
        lost_by_error={k: n for k, n in failed_by_error.items() if k != ErrorKind.OVERLOADED},
        offered_req_per_s=float((table.arrived_at >= start).sum() / span),
        throughput_req_per_s=float(within.sum() / span),
        goodput_req_per_s=float((within & good).sum() / span),
        slo_share=float(good.mean()),
        ttft_s=_percentiles(ttft[answered]),
        tpot_s=_percentiles(tpot[answered]),
        offloaded_share=_share(table.offloaded, answered),
        direct_share=_share(table.direct, answered),
        egress_mean_bytes_per_s=float(sent.mean()),
        egress_peak_bytes_per_s=float(sent.max()),
        utilisation=utilisation,
        cached_tokens_share=float(table.held_tokens[answered].sum() / max(prompts, 1)),
        retried=int((table.attempts > 1).sum()),
    )


def steady_window(table: RequestTable) -> tuple[float, float]:
    """(start, end) of the steady part, in seconds."""
    arrived = table.arrived_at
    return float(arrived[len(arrived) // 10]), float(arrived[-1])


def _percentiles(values: Column) -> Percentiles:
    if values.size == 0:
        return Percentiles(*[float("nan")] * 4)
    p50, p90, p99 = (float(v) for v in np.percentile(values, [50, 90, 99]))
    return Percentiles(float(values.mean()), p50, p90, p99)


def _share(which: NDArray[np.bool_], answered: NDArray[np.bool_]) -> float:
    return float((which & answered).sum() / max(int(answered.sum()), 1))


def egress(simulation: Simulation) -> Column:
    """Bytes that left the PrfaaS clusters in each second of the run."""
    seconds = int(simulation.clock.now) + 1
    total = np.zeros(seconds)
    for line in simulation.lines.values():
        sent = line.per_second()[:seconds]
        total[: len(sent)] += sent
    return total


def _utilisation(simulation: Simulation) -> dict[str, float]:
    """Prefill engines: busy seconds; decode engines: slot seconds; over the whole run."""
    elapsed = max(simulation.clock.now, 1e-9)
    groups: dict[tuple[str, EngineRole], list[float]] = {}
    for spec in simulation.world.topology.engines:
        engine = simulation.engines[spec.name]
        if spec.role == "prefill":
            busy = engine.prefill_busy_s / elapsed
        else:
            busy = engine.decode_slot_s / elapsed / spec.max_requests
        groups.setdefault((spec.cluster, spec.role), []).append(busy)
    return {f"{cluster} {role}": sum(v) / len(v) for (cluster, role), v in groups.items()}
