"""One script of events gives one log of commands, whichever driver plays it.

The simulator calls the scheduler from its event heap, with every event at its simulated time. The
gateway calls it from callbacks of a running loop, as things happen. Here the log of a simulated run
is read back from its journal and played to a fresh scheduler the gateway's way: event by event,
from an asyncio loop, with the one alarm it has asked for. If anything of the driver leaked into the
scheduler (a clock, an identity, an order of sets), the logs would differ.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.registry import POLICIES, make_policy
from prfaas.scheduler.commands import AnyCommand, SetTimer
from prfaas.scheduler.events import AnyEvent, Event, RequestArrived, TimerFired
from prfaas.scheduler.journal import decode, encode
from prfaas.scheduler.scheduler import Scheduler
from prfaas.sim.build import build_world
from prfaas.sim.scenario import (
    ArrivalConfig,
    OutageConfig,
    PoolConfig,
    RunConfig,
    Scenario,
    SimCluster,
    SimLine,
    WorkloadConfig,
)
from prfaas.sim.simulation import Simulation
from prfaas.sim.workload import Arrivals, draw
from prfaas.workload.lengths import TruncatedLogNormal

H200, H20 = "paper-1t-h200", "paper-1t-h20-fit"
SCENARIO = Scenario(
    clusters=(
        SimCluster(name="east", kind="prfaas", prefill=PoolConfig(instances=2, profile=H200)),
        SimCluster(
            name="west",
            kind="pd",
            prefill=PoolConfig(instances=2, profile=H20),
            decode=PoolConfig(instances=2, profile=H20),
        ),
    ),
    links=(SimLine(source="east", target="west", rate="20 Gbps", rtt="30 ms"),),
    workload=WorkloadConfig(arrivals=ArrivalConfig(rate=1.5)),
    failures=tuple(
        OutageConfig(engine=engine, at=at, duration="20 s")
        for engine, at in (("east-prefill-0", "20 s"), ("west-decode-1", "50 s"))
    ),
)


class GatewayLikeDriver:
    """Plays a script from an asyncio loop and keeps one alarm, as the gateway does."""

    def __init__(self, scheduler: Scheduler, script: list[tuple[float, AnyEvent]]) -> None:
        self._scheduler = scheduler
        self._script = script
        self._alarm = float("inf")
        self.log: list[bytes] = []

    def _feed(self, at: float, event: AnyEvent) -> None:
        self.log.append(encode(at, event))
        for command in self._scheduler.handle(event, now=at):
            self.log.append(encode(at, command))
            if isinstance(command, SetTimer):
                self._alarm = command.at

    async def play(self) -> None:
        for at, event in self._script:
            if isinstance(event, TimerFired):
                assert self._alarm == at
                self._alarm = float("inf")
            assert self._alarm >= at
            await asyncio.sleep(0)
            self._feed(at, event)


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_same_events_same_commands(policy: str, tmp_path: Path) -> None:
    run = RunConfig(name="r", scheduler=SchedulerConfig(policy=policy, threshold="19.4K"))
    lengths = TruncatedLogNormal(9.9, 1.0, 128, 131072)
    workload = draw(lengths, 64, Arrivals("poisson", 1.5), 150, np.random.default_rng(5))
    world = build_world(SCENARIO, run, workload, beside=tmp_path)
    journal = tmp_path / "events.jsonl"
    with journal.open("wb") as file:

        def log(at: float, item: AnyEvent | AnyCommand) -> None:
            file.write(encode(at, item))

        Simulation(
            world, workload, make_policy(run.scheduler), run.scheduler, deadline_s=60.0, log=log
        ).run()
    lines = journal.read_bytes().splitlines(keepends=True)
    script = [(at, item) for at, item in map(decode, lines) if isinstance(item, Event)]
    assert sum(isinstance(event, RequestArrived) for _, event in script) == 150

    fresh = Scheduler(world.topology, make_policy(run.scheduler), run.scheduler, costs=world.costs)
    driver = GatewayLikeDriver(fresh, script)
    await driver.play()
    assert driver.log == lines
