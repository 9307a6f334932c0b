"""From a scenario to results: one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from prfaas.description.experiments import RunConfig
from prfaas.description.file import Description
from prfaas.policies.registry import make_policy, with_slo
from prfaas.scheduler.journal import CostInputs, JournalOpened
from prfaas.scheduler.replay import estimates_from
from prfaas.sim.build import build_world
from prfaas.sim.simulation import Log, Simulation
from prfaas.workload.requests import Workload


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
