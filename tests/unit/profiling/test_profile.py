"""A profile of engines that take known times is those times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.deployment import parse_deployment
from prfaas.models.profiles import load_profile, parse_profile
from prfaas.profiling.engine import EngineUnderTest, Facts
from prfaas.profiling.profile import Measured, Wanted, measure
from prfaas.testing.profiled_engine import ProfiledEngine, scaled_layout

PROFILE = load_profile("paper-1t-h20-fit")
SLOW = 0.01
DEPLOYMENT = """
clusters:
  - name: w
    kind: pd
    agent: {name: a, arena: 64 MiB, slot: 256 KiB, plaintext: true}
    engines: [{name: p, role: prefill}, {name: d, role: decode}]
"""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Agent, ProfiledEngine, ProfiledEngine]]:
    deployment = parse_deployment(DEPLOYMENT, source="test")
    agent = Agent(settings_for(deployment, "a", socket=folder / "a.sock"))
    kv = PROFILE.kv_size()
    assert kv is not None
    layout = scaled_layout(kv, byte_scale=64, block_tokens=64)
    await agent.start()
    p, d = (
        ProfiledEngine(name, str(folder / "a.sock"), PROFILE, layout, max_batch=20, slow=SLOW)
        for name in ("p", "d")
    )
    try:
        for engine in (p, d):
            await asyncio.to_thread(engine.client.wait_connected, 30.0)
            await engine.start()
        yield agent, p, d
    finally:
        for engine in (p, d):
            await engine.stop()
        await agent.close()


async def test_prefill_decode_and_loads_are_measured(tmp_path: Path) -> None:
    told: list[str] = []
    async with running(tmp_path) as (agent, p, d):
        wanted = Wanted(
            d.url,
            budget_s=4.0,
            longest=1024,
            max_batch=2,
            agent_url=agent.admin_url,
            agent="a",
            engine="d",
            sender_url=p.url,
        )
        found = await measure(wanted, told.append)
    assert set(found.prefill) <= {128, 256, 512, 1024}
    assert found.prefill
    assert found.decode
    assert found.load
    # No machine is faster than the engines were told to be; how much slower is its own affair.
    for tokens, seconds in found.prefill.items():
        assert seconds >= PROFILE.prefill_or_refuse.seconds(tokens) * SLOW
    assert len(told) == len(found.prefill) + len(found.decode) + len(found.load)
    file = found.file(name="w", hardware="mock", gpus=None, when="2026-01-01")
    profile = parse_profile(msgspec.yaml.encode(file), source="w")
    kv, ours = PROFILE.kv_size(), profile.kv
    assert kv is not None
    assert ours is not None
    assert ours.bytes(6400) == pytest.approx(kv.bytes(6400) / 64, rel=1e-3)
    assert profile.load is not None
    assert profile.gpus == 1
    assert profile.kv_tokens is None


def test_a_file_has_what_was_measured_and_nothing_else() -> None:
    facts = Facts("m", "0.32", 4096, None, None, 0)
    file = Measured(facts=facts, prefill={128: 0.123456}).file(
        name="n", hardware="h", gpus=8, when="2026-01-01"
    )
    assert file["prefill"]["points"] == {128: 0.1235}
    assert file["gpus"] == 8
    assert not {"decode", "load", "kv", "kv_tokens"} & file.keys()
    assert "vLLM 0.32" in file["source"]


async def test_a_batch_is_measured_although_its_prompts_come_one_after_the_other(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as (_, _, d), aiohttp.ClientSession() as session:
        engine = EngineUnderTest(d.url, session)
        await engine.facts()
        # Twelve steps are over before the second of eight prompts is prefilled.
        assert await engine.step_s(8, 12) > 0
