"""The example scenarios, the changes the benchmarks make to them, and what a check says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.deployment import GatewayConfig
from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.description.workload import with_trace as replaced
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.runs import load_scenario
from prfaas.sim.simulation import Simulation
from prfaas.workload.files import TraceSource
from prfaas.workload.requests import Workload

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


NEVER = (GatewayConfig(request_deadline="10000 d"),)
"""What is compared is how long requests wait: none is given up."""


def load(name: str) -> Description:
    """An example without a deadline."""
    return msgspec.structs.replace(load_scenario(EXAMPLES / name), gateways=NEVER)


def with_trace(scenario: Description, trace: Path, requests: int) -> Description:
    workload = replaced(scenario.asked, TraceSource(file=str(trace.resolve())), {})
    assert workload is not None
    workload = msgspec.structs.replace(workload, requests=requests)
    return msgspec.structs.replace(scenario, workload=workload)


class Check(msgspec.Struct, frozen=True):
    """What was measured, what was asked for, and whether it holds."""

    name: str
    measured: dict[str, Any]
    asked: str
    holds: bool


def with_requests(scenario: Description, requests: int) -> Description:
    workload = msgspec.structs.replace(scenario.asked, requests=requests)
    return msgspec.structs.replace(scenario, workload=workload)


def with_rate(scenario: Description, rate: float) -> Description:
    assert scenario.asked.arrivals is not None
    arrivals = msgspec.structs.replace(scenario.asked.arrivals, rate=rate)
    workload = msgspec.structs.replace(scenario.asked, arrivals=arrivals)
    return msgspec.structs.replace(scenario, workload=workload)


def with_seed(scenario: Description, seed: int) -> Description:
    experiments = msgspec.structs.replace(scenario.experiments, seed=seed)
    return msgspec.structs.replace(scenario, experiments=experiments)


def run_named(scenario: Description, name: str) -> RunConfig:
    return next(run for run in scenario.experiments.runs if run.name == name)


def drawn(scenario: Description) -> Workload:
    return build_workload(scenario, beside=EXAMPLES)


def run(
    scenario: Description, config: RunConfig, workload: Workload, until: float = float("inf")
) -> Simulation:
    return simulate(scenario, config, workload, beside=EXAMPLES, until=until)
