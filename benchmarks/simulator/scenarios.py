"""The example scenarios, the changes the benchmarks make to them, and what a check says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.scenario import RunConfig, Scenario
from prfaas.sim.simulation import Simulation
from prfaas.workload.requests import Workload

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Check(msgspec.Struct, frozen=True):
    """What was measured, what was asked for, and whether it holds."""

    name: str
    measured: dict[str, Any]
    asked: str
    holds: bool


def with_requests(scenario: Scenario, requests: int) -> Scenario:
    workload = msgspec.structs.replace(scenario.workload, requests=requests)
    return msgspec.structs.replace(scenario, workload=workload)


def with_rate(scenario: Scenario, rate: float) -> Scenario:
    assert scenario.workload.arrivals is not None
    arrivals = msgspec.structs.replace(scenario.workload.arrivals, rate=rate)
    workload = msgspec.structs.replace(scenario.workload, arrivals=arrivals)
    return msgspec.structs.replace(scenario, workload=workload)


def with_seed(scenario: Scenario, seed: int) -> Scenario:
    return msgspec.structs.replace(scenario, seed=seed)


def run_named(scenario: Scenario, name: str) -> RunConfig:
    return next(run for run in scenario.runs if run.name == name)


def drawn(scenario: Scenario) -> Workload:
    return build_workload(scenario, beside=EXAMPLES)


def run(
    scenario: Scenario, config: RunConfig, workload: Workload, until: float = float("inf")
) -> Simulation:
    return simulate(scenario, config, workload, beside=EXAMPLES, until=until)
