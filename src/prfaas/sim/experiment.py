"""From a scenario to results: one run, and the highest rate that a deployment sustains."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from pathlib import Path

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.policies.registry import make_policy, with_slo
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.replay import estimates_from
from prfaas.sim.build import build_world
from prfaas.sim.simulation import Log, Simulation
from prfaas.sim.summary import Summary, summarise
from prfaas.workload.requests import Workload

ATTAINMENT = 0.9
"""Share of the requests that must meet the SLO, one by one, for a rate to count as sustained."""


def simulate(
    scenario: Description,
    run: RunConfig,
    workload: Workload,
    *,
    beside: Path,
    log: Log | None = None,
    on_progress: Callable[[int], None] | None = None,
    until: float = float("inf"),
    begun_with: CostInputs | None = None,
) -> Simulation:
    """Run one policy over a workload, to the last answer or to time ``until``.

    ``log`` receives a whole journal: how it was opened, then every event and command.
    ``begun_with``: what a scheduler that learns its costs knew at the start (None: nothing).
    """
    world = build_world(scenario, run, workload, beside=beside)
    config = with_slo(run.scheduler, ttft=str(scenario.slo.ttft))
    inputs = world.cost_inputs
    assert inputs is not None
    if scenario.experiments.costs == "learned":
        known = begun_with or CostInputs()
        inputs = msgspec.structs.replace(known, kv_size=inputs.kv_size, prefill=None)
    if log is not None:
        log(
            0.0,
            JournalOpened(
                driver="simulator",
                unix_time=None,
                topology=world.topology,
                scheduler=config,
                costs=inputs,
            ),
        )
    estimates = estimates_from(inputs, world.topology.cluster_of)
    simulation = Simulation(
        world,
        workload,
        make_policy(config),
        config,
        costs=estimates.costs,
        learner=estimates.learner,
        deadline_s=scenario.gateway.request_deadline_s,
        log=log,
    )
    simulation.run(until, on_progress)
    return simulation


class SweepPoint(msgspec.Struct, frozen=True):
    """One rate tried: whether ``slo_share`` of the requests met the SLO."""

    rate_req_per_s: float
    slo_share: float
    met: bool


class Sweep(msgspec.Struct, frozen=True):
    """``best_req_per_s``: the highest rate found that meets the SLO; 0 if none did."""

    name: str
    best_req_per_s: float
    best: Summary | None
    points: tuple[SweepPoint, ...]


def sweep_rate(
    scenario: Description,
    run: RunConfig,
    workload: Workload,
    *,
    beside: Path,
    attainment: float = ATTAINMENT,
    precision: float = 0.01,
    on_point: Callable[[SweepPoint], None] | None = None,
) -> Sweep:
    """Bisect the arrival rate (same requests, faster or slower) to within ``precision``.

    A rate meets the SLO if ``attainment`` of all requests do, one by one. Raises ConfigError for a
    workload that has no rate.
    """
    base = workload.rate
    if isnan(base):
        raise ConfigError("no rate to sweep: all requests arrive at once; take more of them")
    points: list[SweepPoint] = []
    best: Summary | None = None

    def met(rate: float) -> bool:
        nonlocal best
        faster = workload.sped_up(rate / base)
        until = faster.arrivals[-1] * 1.2 + 600.0  # Past that, a rate this high is not sustained.
        simulation = simulate(scenario, run, faster, beside=beside, until=until)
        summary = summarise(run.name, simulation, scenario.slo)
        point = SweepPoint(rate, summary.slo_share, summary.slo_share >= attainment)
        points.append(point)
        if on_point is not None:
            on_point(point)
        if point.met and (best is None or summary.offered_req_per_s > best.offered_req_per_s):
            best = summary
        return point.met

    low, high = _bracket(base, met)
    while high / max(low, 1e-9) > 1 + precision and low > 0:
        middle = (low + high) / 2
        low, high = (middle, high) if met(middle) else (low, middle)
    return Sweep(run.name, low, best, tuple(points))


def _bracket(base: float, met: Callable[[float], bool]) -> tuple[float, float]:
    """A rate that meets the SLO (0 if none down to a thousandth) and one that does not."""
    rate = base
    if met(rate):
        while met(rate * 1.5):
            rate *= 1.5
            if rate > base * 1000:
                break
        return rate, rate * 1.5
    while rate > base / 1000:
        if met(rate / 1.5):
            return rate / 1.5, rate
        rate /= 1.5
    return 0.0, rate
