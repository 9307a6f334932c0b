"""The example scenarios, and the changes the benchmarks make to them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.sim.scenario import RunConfig, Scenario, build_workload
from prfaas.sim.workload import Workload

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


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
