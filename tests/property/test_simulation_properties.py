"""Random scenarios with failures: nothing is lost, doubled, overfull or out of order."""

from __future__ import annotations

from collections import Counter
from math import inf

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Route
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.registry import POLICIES, for_policy, make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.sim.simulation import Simulation
from prfaas.sim.workload import Workload
from prfaas.sim.world import EngineModel, LineModel, Outage, World

STATE_BYTES, BYTES_PER_TOKEN = 5e6, 1e4


@st.composite
def worlds(draw: st.DrawFn) -> World:
    slots = draw(st.integers(1, 4))
    prefills, decodes = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    engines = [EngineSpec(f"e{i}", "east", "prefill", 2) for i in range(draw(st.integers(0, 2)))]
    engines += [EngineSpec(f"p{i}", "west", "prefill", 2) for i in range(prefills)]
    engines += [EngineSpec(f"d{i}", "west", "decode", slots) for i in range(decodes)]
    engines = [
        msgspec.structs.replace(spec, kv_tokens=draw(st.sampled_from([inf, 3000.0])))
        for spec in engines
    ]
    names = [spec.name for spec in engines]
    times = st.floats(0, 20)
    outages = draw(
        st.lists(st.builds(Outage, st.sampled_from(names), times, st.floats(0.1, 10)), max_size=4)
    )
    changes = draw(
        st.lists(st.tuples(times, st.sampled_from([0.0, 1e6, 1e8])), max_size=4).map(sorted)
    )
    changes.append((40.0, 1e8))
    return World(
        topology=Topology(
            (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
            tuple(engines),
            (LinkSpec("east", "west", 1e8, 0.02),),
            64,
        ),
        engines=tuple(
            EngineModel(
                spec.name,
                lambda batch: 0.01 + 0.001 * batch,
                spec.max_requests,
                spec.kv_tokens,
            )
            for spec in engines
        ),
        lines=(LineModel("east", "west", 1e8, 0.02, 0.0, 4, tuple(changes)),),
        costs=ProfileCosts(
            {name: lambda tokens: 0.05 + tokens / 2000 for name in names},
            lambda tokens: STATE_BYTES + BYTES_PER_TOKEN * tokens,
        ),
        state_bytes=STATE_BYTES,
        cache_blocks={"east": 20, "west": 20} if draw(st.booleans()) else {},
        outages=apart(outages),
        link_report_s=draw(st.sampled_from([None, 1.0])),
    )


def apart(outages: list[Outage]) -> tuple[Outage, ...]:
    """Those that begin when their engine is up: no scenario file may hold others."""
    up_from: dict[str, float] = {}
    kept = []
    for outage in sorted(outages, key=lambda outage: outage.at):
        if outage.at > up_from.get(outage.engine, -inf):
            kept.append(outage)
            up_from[outage.engine] = outage.at + outage.for_s
    return tuple(kept)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    prompts = rng.integers(1, 2000, count)
    chains = rng.integers(0, 3, count)
    return Workload(
        np.sort(rng.uniform(0, 20, count)).tolist(),
        prompts.tolist(),
        rng.integers(1, 60, count).tolist(),
        [
            [int(k) * 1000 + i for i in range(p // 128)]
            for k, p in zip(chains, prompts, strict=True)
        ],
        128,
    )


class Watcher:
    """The log: checks that time moves forward and how each request ended."""

    def __init__(self) -> None:
        self.at = -inf
        self.ends: Counter[str] = Counter()
        self.first: Counter[str] = Counter()
        self.lines: list[tuple[float, object]] = []
        self.offloads: dict[tuple[str, int], c.StartPrefill] = {}
        self.arrived_bytes: list[float] = []

    def __call__(self, at: float, item: e.AnyEvent | c.AnyCommand) -> None:
        assert at >= self.at
        self.at = at
        self.lines.append((at, item))
        if isinstance(item, e.RequestCompleted | c.FailRequest):
            self.ends[item.request_id] += 1
        elif isinstance(item, e.FirstToken):
            self.first[item.request_id] += 1
        elif isinstance(item, c.StartPrefill) and item.route is Route.OFFLOAD:
            self.offloads[item.request_id, item.attempt] = item
        elif isinstance(item, e.TransferCompleted):
            start = self.offloads.get((item.request_id, item.attempt))
            if start is not None:
                tokens = start.to_token - start.from_token
                self.arrived_bytes.append(STATE_BYTES + BYTES_PER_TOKEN * tokens)


def run(
    world: World, workload: Workload, policy: str, deadline_s: float | None
) -> tuple[Simulation, Watcher]:
    config = for_policy(SchedulerConfig(threshold=700, engine_wait="30 s"), policy)
    watcher = Watcher()
    simulation = Simulation(
        world, workload, make_policy(config), config, deadline_s=deadline_s, log=watcher
    )
    tell = simulation._tell

    def checked(event: e.AnyEvent) -> None:
        tell(event)
        simulation.scheduler.check_integrity()
        for model in world.engines:
            assert simulation.engines[model.name].batch <= model.max_batch

    simulation._tell = checked  # type: ignore[method-assign]
    simulation._network._tell = checked
    simulation.run(until=1000.0)
    return simulation, watcher


@settings(max_examples=60)
@given(worlds(), workloads(), st.sampled_from(sorted(POLICIES)), st.sampled_from([None, 30.0]))
def test_every_request_ends_exactly_once_within_capacity(
    world: World, workload: Workload, policy: str, deadline_s: float | None
) -> None:
    simulation, watcher = run(world, workload, policy, deadline_s)
    assert simulation.scheduler.live_requests == 0
    assert watcher.ends == Counter({str(i): 1 for i in range(len(workload))})
    assert max(watcher.first.values(), default=1) == 1
    for cache in simulation._caches.values():
        cache.check_integrity()
    for line in simulation.lines.values():
        arrived = sum(watcher.arrived_bytes)
        assert line.received_bytes == pytest.approx(arrived, abs=1.0)
        sent = line.received_bytes + line.dropped_bytes
        assert sum(line.per_second()) == pytest.approx(sent, rel=1e-6, abs=1e3)


@settings(max_examples=10)
@given(worlds(), workloads(), st.sampled_from(sorted(POLICIES)))
def test_the_same_run_twice_is_the_same(world: World, workload: Workload, policy: str) -> None:
    _, first = run(world, workload, policy, 30.0)
    _, second = run(world, workload, policy, 30.0)
    assert first.lines == second.lines
