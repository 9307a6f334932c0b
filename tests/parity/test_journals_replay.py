"""One scheduler, two drivers: whichever drove it, its journal gives the same commands again.

The gateway calls the scheduler from callbacks of a running loop, as things happen on real sockets;
the simulator from its event heap, with every event at its simulated time. Both write a journal.
Here it is played to a fresh scheduler, made from nothing but the journal's first line. If anything
of the driver leaked into the scheduler (a clock, an identity, an order of sets), or the journal
lacked anything that the scheduler decides by, the commands would differ.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest

from prfaas.core.deployment import ClusterConfig, GatewayConfig, LinkConfig, SchedulerConfig
from prfaas.core.planned import InstancesConfig
from prfaas.description.experiments import Experiments, OutageConfig, RunConfig
from prfaas.description.file import Description
from prfaas.description.workload import (
    ArrivalConfig,
    LengthsConfig,
    LogNormalConfig,
    WorkloadConfig,
)
from prfaas.index.cache_events import BlocksStored
from prfaas.policies.registry import POLICIES
from prfaas.scheduler.commands import CancelTransfer, FailRequest, StartDecode
from prfaas.scheduler.events import (
    AnyEvent,
    EngineDown,
    EngineSuspected,
    PrefillFailed,
    RequestArrived,
    RequestCancelled,
    TimerFired,
)
from prfaas.scheduler.journal import Entry, JournalOpened, RequestEnded, encode
from prfaas.scheduler.replay import read_journal, replay
from prfaas.sim.experiment import simulate
from prfaas.testing.mock_deployment import BLOCK_TOKENS, KNOW_A_THRESHOLD, MockDeployment, until
from prfaas.workload.arrivals import Arrivals
from prfaas.workload.lengths import TruncatedLogNormal
from prfaas.workload.requests import draw

H200, H20 = "paper-1t-h200", "paper-1t-h20-fit"
SCENARIO = Description(
    clusters=(
        ClusterConfig(name="east", kind="prfaas", instances=InstancesConfig(count=2, profile=H200)),
        ClusterConfig(
            name="west",
            kind="pd",
            profile=H20,
            instances=(
                InstancesConfig(count=2, role="prefill"),
                InstancesConfig(count=2, role="decode"),
            ),
        ),
    ),
    links=(LinkConfig(source="east", target="west", rate="20 Gbps", rtt="30 ms"),),
    workload=WorkloadConfig(
        lengths=LengthsConfig(lognormal=LogNormalConfig()),
        output_tokens=64,
        arrivals=ArrivalConfig(rate=1.5),
    ),
    gateways=(GatewayConfig(request_deadline="60 s"),),
    experiments=Experiments(
        failures=tuple(
            OutageConfig(engine=engine, at=at, duration="20 s")
            for engine, at in (("east-prefill-0", "20 s"), ("west-decode-1", "50 s"))
        )
    ),
)


def read(path: Path) -> list[tuple[float, Entry]]:
    return list(read_journal(path.read_bytes().splitlines(keepends=True)))


def count(entries: list[tuple[float, Entry]], kind: type) -> int:
    return sum(isinstance(item, kind) for _, item in entries)


@pytest.mark.parametrize("costs", ["profiles", "learned"])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_simulation(policy: str, costs: str, tmp_path: Path) -> None:
    config = SchedulerConfig(policy=policy)
    if policy in KNOW_A_THRESHOLD:
        config = msgspec.structs.replace(config, threshold="19.4K")
    run = RunConfig(name="r", scheduler=config)
    lengths = TruncatedLogNormal(9.9, 1.0, 128, 131072)
    workload = draw(lengths, 64, Arrivals("poisson", 1.5), 150, np.random.default_rng(5))
    experiments = msgspec.structs.replace(SCENARIO.experiments, costs=costs)
    scenario = msgspec.structs.replace(SCENARIO, experiments=experiments)
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:

        def log(at: float, item: Entry) -> None:
            file.write(encode(at, item))

        simulate(scenario, run, workload, beside=tmp_path, log=log)
    entries = read(path)
    assert count(entries, RequestArrived) == 150
    assert count(entries, StartDecode) + count(entries, FailRequest) >= 150
    assert not list(replay(entries))


async def ask(client: aiohttp.ClientSession, prompt: str, *, stream: bool = True) -> int:
    async with client.post(
        "/v1/completions", json={"prompt": prompt, "stream": stream, "max_tokens": 1}
    ) as response:
        await response.read()
        return response.status


async def an_eventful_day(mock: MockDeployment, client: aiohttp.ClientSession) -> None:
    """Every route, a cached prefix, a stalled transfer, failures, a departure, a death, an end."""
    lengths = itertools.cycle((3, 30, 300))
    prompts = [f"{number:02d}" + "x" * next(lengths) for number in range(60)]
    assert set(await asyncio.gather(*(ask(client, p) for p in prompts))) == {200}
    blocks = list(range(20))
    text = "y" * 200
    mock.gateway.feed("d2").follower.index.stored(
        BlocksStored(
            group=0,
            kind="full_attention",
            block_tokens=BLOCK_TOKENS,
            hashes=blocks,
            parent=None,
            token_ids=list(text.encode())[: len(blocks) * BLOCK_TOKENS],
        )
    )
    await ask(client, text)
    e1 = mock.engines["e1"]
    e1.exports_complete = False
    await ask(client, "s" * 100)
    e1.exports_complete = True
    e1.refuse_exports = "no step ends at the boundary"
    await ask(client, "r" * 100, stream=False)
    e1.refuse_exports = None
    engines = mock.engines.values()
    for engine in engines:
        engine.first_token_gate.clear()
    before = sum(len(engine.requests) for engine in engines)
    leaving = asyncio.create_task(ask(client, "g" * 100))
    await until(lambda: sum(len(engine.requests) for engine in engines) > before)
    leaving.cancel()
    await until(lambda: mock.gateway.requests.inflight == 0)
    for engine in engines:
        engine.first_token_gate.set()
    await e1.stop()
    await asyncio.gather(*(ask(client, f"{number}" + "z" * 90) for number in range(8)))
    await until(lambda: "e1" not in mock.gateway.fleet.up)
    await e1.start()
    await until(lambda: "e1" in mock.gateway.fleet.up)


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_a_gateway(policy: str, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    mock = MockDeployment(
        policy=policy, journal_file=path, deadline="5 min", transfer_stall="400 ms"
    )
    async with mock.running() as client:
        await mock.ready()
        await an_eventful_day(mock, client)
    entries = read(path)
    assert isinstance(entries[0][1], JournalOpened)
    assert count(entries, RequestArrived) == count(entries, RequestEnded) == 72
    assert count(entries, StartDecode) >= 71
    assert count(entries, RequestCancelled) == 1
    for kind in (EngineSuspected, EngineDown):
        assert "e1" in {item.engine for _, item in entries if isinstance(item, kind)}
    assert not list(replay(entries))


async def test_what_the_gateways_journal_says_is_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    mock = MockDeployment(policy="naive", journal_file=path, deadline="3 s")
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].refuse_exports = "no step ends at the boundary"
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.clear()
        assert await ask(client, "x" * 100) == 504
    entries = read(path)
    for kind in (PrefillFailed, CancelTransfer, TimerFired, FailRequest):
        assert count(entries, kind) >= 1, kind
    assert not list(replay(entries))


def test_a_difference_is_found(tmp_path: Path) -> None:
    run = RunConfig(name="r", scheduler=SchedulerConfig(policy="naive"))
    lengths = TruncatedLogNormal(9.9, 1.0, 128, 131072)
    workload = draw(lengths, 64, Arrivals("poisson", 1.5), 20, np.random.default_rng(5))
    entries: list[tuple[float, Entry]] = []
    simulate(
        SCENARIO, run, workload, beside=tmp_path, log=lambda at, item: entries.append((at, item))
    )
    place = next(i for i, (_, item) in enumerate(entries) if isinstance(item, StartDecode))
    at, started = entries[place]
    entries[place] = (at, msgspec.structs.replace(started, engine="another"))
    (difference,) = replay(entries)
    event: AnyEvent = difference.event
    assert (difference.at, event.request_id) == (at, started.request_id)  # type: ignore[union-attr]
