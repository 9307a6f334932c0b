"""One run of a scenario."""

from __future__ import annotations

import gc
from pathlib import Path

import msgspec

from prfaas.core.deployment import GatewayConfig
from prfaas.scheduler.journal import CostInputs, Curve
from prfaas.scheduler.state import Record
from prfaas.sim.build import build_workload
from prfaas.sim.engine import Task
from prfaas.sim.experiment import simulate
from prfaas.sim.runs import load_scenario, run_for

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENARIO = load_scenario(EXAMPLES / "paper.yaml")
WORKLOAD = build_workload(SCENARIO, beside=EXAMPLES).first(200)


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


def test_what_has_ended_leaves_no_object_behind() -> None:
    run = run_for(SCENARIO, "auto")
    tight = msgspec.structs.replace(SCENARIO, gateways=(GatewayConfig(request_deadline="20 s"),))
    gc.collect()
    gc.disable()  # As during a run: what is part of a cycle stays.
    try:
        crowd = WORKLOAD.sped_up(3.0)  # Some are refused or too late.
        simulation = simulate(tight, run, crowd, beside=EXAMPLES)
        left = [found for found in gc.get_objects() if type(found) in (Task, Record)]
    finally:
        gc.enable()
    assert 0 < int((simulation.recorder.table().done_at > 0).sum()) < len(crowd)
    assert not left
