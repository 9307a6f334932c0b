"""The simulator's caches hit what those of a gateway and its agents do, also where they are small.

Live are the gateway, the agents (memory, disk, the link between them) and their routing; engines
compute nothing. Whatever is asked is asked when everybody knows what the last request has left, and
what can be loaded is: what it would take is no part of this. What is told of it, with the time that
fetches take, makes a fresh scheduler give the same commands.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from prfaas.agent import spill_directory
from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.addresses import Address
from prfaas.core.deployment import parse_deployment
from prfaas.description.file import parse_description
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.gateway import Gateway
from prfaas.gateway.http import make_app
from prfaas.gateway.load_costs import LoadCosts
from prfaas.launch.addresses import free_address
from prfaas.policies.registry import make_policy
from prfaas.process.front_door import serving_strangers
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.replay import read_journal, replay
from prfaas.sim.build import build_world
from prfaas.sim.simulation import Simulation
from prfaas.testing.caching_engine import BLOCK_TOKENS, CachingEngine, answer_to
from prfaas.testing.mock_deployment import until
from prfaas.workload.requests import Workload

ANSWER = 24


class Sizes(NamedTuple):
    """Blocks that an engine holds itself, and that its agent may cache in memory and on disk."""

    own: int
    memory: int
    disk: int


def conversations(seed: int, *, sessions: int, turns: int) -> list[list[int]]:
    """Prompts in the order in which they are asked: each session goes on when all others have."""
    rng = random.Random(seed)
    system = [rng.randrange(300, 4000) for _ in range(160)]
    histories = {session: list(system) for session in range(sessions)}
    prompts = []
    for _ in range(turns):
        order = list(histories)
        rng.shuffle(order)
        for session in order:
            length = rng.randint(20, 150)
            prompt = histories[session] + [rng.randrange(300, 4000) for _ in range(length)]
            prompts.append(prompt)
            histories[session] = prompt + answer_to(prompt, ANSWER)
    return prompts


DEPLOYMENT = """
clusters:
  - name: east
    kind: prfaas
    profile: tiny.yaml
    prefix_cache: agents
    engines: [{{name: e0, role: prefill, url: "{e0}", kv_events: "tcp://127.0.0.1:1"{kv}}}]
    agent: {{name: ea, admin: "{ea}", listen: "{el}", socket: {run}/e, plaintext: true,
             arena: 64 MiB, slot: 64 KiB, cache: {{size: {memory} KiB{spill}}}}}
  - name: west
    kind: pd
    profile: tiny.yaml
    prefix_cache: agents
    engines: [{{name: d0, role: decode, url: "{d0}", kv_events: "tcp://127.0.0.1:1",
                max_num_seqs: 8{kv}}}]
    agent: {{name: wa, admin: "{wa}", listen: "{wl}", socket: {run}/w, plaintext: true,
             arena: 64 MiB, slot: 64 KiB, cache: {{size: {memory} KiB, answers: true{spill_west}}}}}
links: [{{from: east, to: west, rate: 10 Gbit/s}}]
scheduler: {{policy: static-length, options: {{tokens: {threshold}, ratio: 0.2}}}}
"""
PLANNED = """
model: {block_tokens: 16, kv_size: {constant: 0 B, per_token: 1 KiB}}
experiments:
  runs:
    - {name: pool, scheduler: {policy: static-length, options: {tokens: THRESHOLD, ratio: 0.2}}}
"""
PROFILE = """
{name: tiny, hardware: none, gpus: 1, source: this test, basis: fit,
 prefill: {points: {1K: 10, 8K: 80}}, decode: {points: {1: 0.005, 8: 0.01}}}
"""


class Live:
    """Everything, started."""

    def __init__(self, run: Path, sizes: Sizes, threshold: int) -> None:
        self.sizes, self.journal = sizes, run / "journal"
        self.engines = {
            name: CachingEngine(name, blocks=sizes.own, keeps=name == "d0") for name in ("e0", "d0")
        }
        self.fill: dict[str, Any] = {"run": run, "threshold": threshold, "kv": ""}
        self.fill |= {name: free_address() for name in ("ea", "el", "wa", "wl")}
        self.fill["memory"] = sizes.memory * 16
        for name, place in (("spill", "e"), ("spill_west", "w")):
            disk = f", spill: {{path: {run}/disk-{place}, size: {sizes.disk * 16} KiB}}"
            self.fill[name] = disk if sizes.disk else ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[aiohttp.ClientSession]:
        async with AsyncExitStack() as stack:
            for engine in self.engines.values():
                await engine.start()
                stack.push_async_callback(engine.stop)
            self.fill |= {name: engine.url for name, engine in self.engines.items()}
            deployment = parse_deployment(DEPLOYMENT.format(**self.fill), source="test")
            self.agents = {n: Agent(settings_for(deployment, n)) for n in ("ea", "wa")}
            for agent in self.agents.values():
                await agent.start()
                stack.push_async_callback(agent.close)
            for name, engine in self.engines.items():
                await engine.connect(f"{self.fill['run']}/{'e' if name == 'e0' else 'w'}")
                stack.push_async_callback(engine.leave)
            self.gateway = Gateway(
                deployment, resolve(deployment, source="test"), journal_file=self.journal
            )
            await self.gateway.start()
            stack.push_async_callback(self.gateway.close)
            for name, engine in self.engines.items():
                engine.index = self.gateway.feed(name).follower.index
            served = serving_strangers(
                make_app(self.gateway), str(Address("127.0.0.1", 0)), what="test",
                shutdown_timeout_s=0.1, book=self.gateway.access.connections,
            )  # fmt: skip
            url = await stack.enter_async_context(served)
            client = await stack.enter_async_context(aiohttp.ClientSession(url))
            await until(self._is_ready)
            yield client

    def _is_ready(self) -> bool:
        gateway = self.gateway
        begun = all(gateway.feed(name).follower.resets_total for name in self.engines)
        amiss = [*gateway.troubles(), *gateway.fleet.warnings(), *gateway.lines.warnings()]
        return begun and not amiss

    def settled(self) -> bool:
        """Whether what is cached is on disk, and the gateway knows of it."""
        if self.gateway.requests.inflight or self.gateway._driver._background:
            return False
        known: dict[str, dict[str, str]] = {name: {} for name in self.agents}
        for holder, holding in self.gateway.pools._holdings.items():
            known[holder.agent] |= {p[0]: news.tier for p, news in holding._parts.items()}
        for name, agent in self.agents.items():
            pool, files = agent.driver.snapshot(), agent.driver.on_disk()
            found = {f.transfer_id: "memory" if f.in_memory else "disk" for f in files}
            there = {entry.transfer_id: "memory" for entry in pool.cached}
            if known[name] != found | there or (self.sizes.disk and there.keys() - found.keys()):
                return False
            if pool.exports or pool.receptions or pool.imports or pool.slots.held:
                return False
        return True

    async def ask(self, client: aiohttp.ClientSession, prompt: list[int]) -> int:
        """The tokens of it that were not computed by whoever prefilled it, with its hand-off's."""
        before = sum(engine.computed_tokens for engine in self.engines.values())
        body = {"prompt": prompt, "max_tokens": ANSWER}
        async with client.post("/v1/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            handed = answer.headers.get("x-prfaas-prefill-engine") is not None
        await until(self.settled)
        computed = sum(engine.computed_tokens for engine in self.engines.values()) - before
        rest = len(prompt) - (len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        return len(prompt) - computed + (rest if handed else 0)


def simulated(live: Live, prompts: list[list[int]], beside: Path) -> list[int]:
    (beside / "tiny.yaml").write_text(PROFILE)
    fill = live.fill | {"kv": f", kv_tokens: {live.sizes.own * BLOCK_TOKENS}"}
    text = DEPLOYMENT.format(**fill).rpartition("scheduler:")[0]
    threshold = str(live.fill["threshold"])
    text += PLANNED.replace("THRESHOLD", threshold)
    description = parse_description(text, source="test")
    names: dict[tuple[int, ...], int] = {}

    def blocks(ids: list[int]) -> list[int]:
        found, before = [], -1
        for end in range(BLOCK_TOKENS, len(ids) + 1, BLOCK_TOKENS):
            before = names.setdefault((before, *ids[end - BLOCK_TOKENS : end]), len(names))
            found.append(before)
        return found

    workload = Workload(
        [1000.0 * n for n in range(len(prompts))],
        [len(prompt) for prompt in prompts],
        [ANSWER] * len(prompts),
        [blocks(prompt) for prompt in prompts],
        BLOCK_TOKENS,
        conversed=[blocks([*p, *answer_to(p, ANSWER)][:-1]) for p in prompts],
    )
    (run,) = description.experiments.runs
    world = build_world(description, run, workload, beside=beside)
    simulation = Simulation(world, workload, make_policy(run.scheduler), run.scheduler)
    simulation.run()
    return list(simulation.recorder.held_tokens)


@pytest.mark.parametrize(
    ("sizes", "threshold"),
    [
        (Sizes(own=100, memory=0, disk=0), 100),
        (Sizes(own=60, memory=120, disk=0), 100),
        (Sizes(own=60, memory=120, disk=240), 100),
        (Sizes(own=60, memory=120, disk=240), 10_000),
    ],
)
async def test_hit_tokens_are_those_of_a_live_run(
    sizes: Sizes, threshold: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``threshold``: uncached tokens from which on prompts are handed over."""
    monkeypatch.setattr(spill_directory, "file_system", lambda path: "ext4")
    monkeypatch.setattr(LoadCosts, "best", lambda self, total, engine, own, whole: whole)
    prompts = conversations(3, sessions=6, turns=4)
    live = Live(tmp_path, sizes, threshold)
    async with live.running() as client:
        asked = [await live.ask(client, prompt) for prompt in prompts]
        counters = live.agents["wa"].driver.snapshot().counters
    assert not [failure for engine in live.engines.values() for failure in engine.failures]
    assert bool(counters.spill_read) is bool(sizes.disk)
    assert bool(counters.loads_ready) is (sizes.memory > 0)
    expected = simulated(live, prompts, tmp_path)
    print(f"live and simulated: {list(zip(asked, expected, strict=True))}")
    assert sum(expected) == pytest.approx(sum(asked), rel=0.03)
    entries = list(read_journal(live.journal.read_bytes().splitlines(keepends=True)))
    fetched = [e.fetch_s for _, e in entries if isinstance(e, RequestArrived) and e.fetch_s]
    assert bool(fetched) is (sizes.memory > 0)
    assert list(replay(entries)) == []
