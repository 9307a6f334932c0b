"""The planner against the simulator: within 1% where nothing queues, within 3% where all does.

The planner's are those with exact expectations: the simulator draws every length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from prfaas.core.deployment import GatewayConfig
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.models.profiles import load_profile
from prfaas.planner.compare import elastic_bound, plan
from prfaas.planner.scenario import load_scenario as load_planned
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.runs import load_scenario, run_for
from prfaas.sim.simulation import Simulation
from prfaas.sim.summary import summarise

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
PAPER = EXAMPLES / "paper.yaml"
SEEDS = (1, 2)
NEVER = (GatewayConfig(request_deadline="10000 d"),)


def planned() -> dict[str, Any]:
    exact = msgspec.structs.replace(load_planned(PAPER), expectations="exact")
    return {deployment.name: deployment for deployment in plan(exact).deployments}


def offered(rate: float, requests: int, seed: int = 1) -> Description:
    scenario = load_scenario(PAPER)
    assert scenario.asked.arrivals is not None
    arrivals = msgspec.structs.replace(scenario.asked.arrivals, rate=rate)
    return msgspec.structs.replace(
        scenario,
        gateways=NEVER,
        workload=msgspec.structs.replace(scenario.asked, arrivals=arrivals, requests=requests),
        experiments=msgspec.structs.replace(scenario.experiments, seed=seed),
    )


def simulated(scenario: Description, run: RunConfig, *, to_the_end: bool) -> Simulation:
    workload = build_workload(scenario, beside=EXAMPLES)
    until = float("inf") if to_the_end else workload.arrivals[-1]
    return simulate(scenario, run, workload, beside=EXAMPLES, until=until)


def carried(name: str, rate: float) -> float:
    """Answers per second where so many requests are offered."""
    rates = []
    for seed in SEEDS:
        scenario = offered(rate, 8000, seed)
        simulation = simulated(scenario, run_for(scenario, name), to_the_end=False)
        rates.append(summarise(name, simulation, scenario.slo).throughput_req_per_s)
    return float(np.mean(rates))


@pytest.mark.parametrize(
    ("run", "deployment"),
    [
        ("threshold", "prfaas_pd"),
        ("homogeneous", "homogeneous_pd"),
        ("naive", "naive_heterogeneous_pd"),
    ],
)
def test_at_saturation_a_deployment_carries_what_is_planned(run: str, deployment: str) -> None:
    expected = planned()[deployment].lambda_max_req_per_s
    assert carried(run, expected * 1.15) == pytest.approx(expected, rel=0.03)


def test_offered_the_elastic_bound_auto_carries_it() -> None:
    """Not more: what it refuses then are the long prompts, and of the others it carries more."""
    bound = elastic_bound(load_planned(PAPER)).lambda_max
    assert carried("auto", bound) == pytest.approx(bound, rel=0.03)


def test_without_queues_a_threshold_sends_what_is_planned() -> None:
    expected = planned()["prfaas_pd"]
    scenario = offered(0.05, 40_000)
    run = run_for(scenario, "threshold")
    threshold = round(expected.threshold_tokens)
    scheduler = msgspec.structs.replace(run.scheduler, threshold=threshold)
    run = msgspec.structs.replace(run, scheduler=scheduler)
    simulation = simulated(scenario, run, to_the_end=True)
    table = simulation.recorder.table()
    (line,) = simulation.lines.values()
    egress = expected.egress_bytes_per_s / expected.lambda_max_req_per_s
    assert float(table.offloaded.mean()) == pytest.approx(expected.offloaded_share, rel=0.01)
    assert line.received_bytes / len(table.prefill_s) == pytest.approx(egress, rel=0.01)
    assert float(table.prefill_s.mean()) == pytest.approx(expected.ttft.mean_s, rel=0.01)


def test_without_queues_auto_takes_the_sooner_of_the_profiles() -> None:
    scenario = offered(0.01, 2000)
    simulation = simulated(scenario, run_for(scenario, "auto"), to_the_end=True)
    table = simulation.recorder.table()
    near, far = (
        load_profile(name, beside=EXAMPLES).prefill_or_refuse.seconds
        for name in ("paper-1t-h20-fit", "paper-1t-h200")
    )
    state_s = simulation.world.state_bytes / 12.5e9 + 0.010
    soonest = [min(near(n), far(n) + state_s) for n in table.prompt_tokens.tolist()]
    # What was handed over has its first token after a decode step.
    step = load_profile("paper-1t-h20-fit", beside=EXAMPLES).decode_or_refuse.step_seconds(1)
    steps_s = step * float(1 - table.direct.mean())
    assert float(table.ttft_s.mean()) == pytest.approx(np.mean(soonest) + steps_s, rel=0.01)
