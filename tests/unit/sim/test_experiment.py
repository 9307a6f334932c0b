"""The highest rate that a deployment sustains."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.core.errors import ConfigError
from prfaas.scheduler.journal import CostInputs, Curve
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import SweepPoint, simulate, sweep_rate
from prfaas.sim.runs import load_scenario, run_for

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENARIO = load_scenario(EXAMPLES / "paper.yaml")
RUN = run_for(SCENARIO, "threshold")
WORKLOAD = build_workload(SCENARIO, beside=EXAMPLES).first(200)


def test_the_rate_found_meets_the_slo_and_one_a_little_higher_does_not() -> None:
    heard: list[SweepPoint] = []
    sweep = sweep_rate(
        SCENARIO, RUN, WORKLOAD, beside=EXAMPLES, precision=0.05, on_point=heard.append
    )
    assert tuple(heard) == sweep.points
    met = [point.rate_req_per_s for point in sweep.points if point.met]
    missed = [point.rate_req_per_s for point in sweep.points if not point.met]
    assert sweep.best_req_per_s == max(met)
    assert min(rate for rate in missed if rate > max(met)) <= max(met) * 1.05
    assert sweep.best is not None
    assert all(point.met == (point.slo_share >= 0.9) for point in sweep.points)


def test_what_no_rate_meets_has_none() -> None:
    strict = msgspec.structs.replace(
        SCENARIO, slo=msgspec.structs.replace(SCENARIO.slo, ttft="1 ms")
    )
    sweep = sweep_rate(strict, RUN, WORKLOAD.first(20), beside=EXAMPLES)
    assert (sweep.best_req_per_s, sweep.best) == (0.0, None)
    assert not any(point.met for point in sweep.points)


def test_requests_that_arrive_together_have_no_rate_to_sweep() -> None:
    together = msgspec.structs.replace(WORKLOAD.first(3), arrivals=[0.0, 0.0, 0.0])
    with pytest.raises(ConfigError, match="no rate to sweep"):
        sweep_rate(SCENARIO, RUN, together, beside=EXAMPLES)


def test_a_scheduler_that_learns_begins_with_what_it_is_given() -> None:
    learning = msgspec.structs.replace(
        SCENARIO, experiments=msgspec.structs.replace(SCENARIO.experiments, costs="learned")
    )
    slow = Curve((1000.0, 131072.0), (50.0, 900.0), "linear")
    begun = CostInputs(seeds={f"east-prefill-{i}": slow for i in range(4)})
    run = run_for(SCENARIO, "earliest")
    seen = [
        simulate(learning, run, WORKLOAD.first(8), beside=EXAMPLES, begun_with=known)
        for known in (None, begun)
    ]
    offloaded = [int(simulation.recorder.table().offloaded.sum()) for simulation in seen]
    assert offloaded[1] < offloaded[0]
