"""Engines that take a profile's times hand over what S_kv says, through a real agent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.deployment import parse_deployment
from prfaas.models.profiles import load_profile
from prfaas.testing.profiled_engine import ProfiledEngine, WallClock, scaled_layout

PROFILE = load_profile("paper-1t-h20-fit")
FAST = 1e-4
DEPLOYMENT = """
clusters:
  - name: w
    kind: pd
    agent: {name: a, arena: 64 MiB, slot: 256 KiB, plaintext: true}
    engines: [{name: p, role: prefill}, {name: d, role: decode}]
"""


def test_a_scaled_layout_hands_over_s_kv() -> None:
    kv = PROFILE.kv_size()
    assert kv is not None
    layout = scaled_layout(kv, byte_scale=64, block_tokens=64)
    assert layout.alignment_tokens == 64
    assert layout.handoff_bytes(0, 64 * 500) * 64 == pytest.approx(kv.bytes(64 * 500), rel=1e-3)


async def test_what_is_late_runs_at_its_own_time() -> None:
    clock = WallClock(FAST)
    seen: list[float] = []
    done = asyncio.Event()

    def note(_: Any) -> None:
        seen.append(clock.now)
        clock.at(clock.now + 1.0, lambda _: done.set(), None)

    due = clock.now + 0.5
    clock.at(due, note, None)
    await done.wait()
    assert seen == [due]
    assert clock.now >= due + 1.0


async def ask(url: str, **body: Any) -> bytes:
    async with aiohttp.ClientSession() as client:
        request = {"prompt": [1] * 5000, "max_tokens": 100, "stream": True, **body}
        headers = {"X-Request-Id": "r"}
        async with client.post(f"{url}/v1/completions", json=request, headers=headers) as answer:
            assert answer.status == 200
            return await answer.read()


async def test_a_prompt_is_prefilled_handed_over_and_answered(tmp_path: Path) -> None:
    deployment = parse_deployment(DEPLOYMENT, source="test")
    agent = Agent(settings_for(deployment, "a", socket=tmp_path / "a.sock"))
    kv = PROFILE.kv_size()
    assert kv is not None
    layout = scaled_layout(kv, byte_scale=64, block_tokens=64)
    await agent.start()
    engines = [
        ProfiledEngine(name, str(tmp_path / "a.sock"), PROFILE, layout, max_batch=20, slow=FAST)
        for name in ("p", "d")
    ]
    prefill, decode = engines
    try:
        for engine in engines:
            await asyncio.to_thread(engine.client.wait_connected, 30.0)
            await engine.start()
        bounds = {"transfer_id": "t1", "from_token": 0, "to_token": 4992}
        export = {
            "prfaas": "export",
            "destination": "a",
            "readers": ["d"],
            "deadline_s": 60.0,
            **bounds,
        }
        answered = await ask(prefill.url, kv_transfer_params=export, max_tokens=1)
        assert b'"ok": true' in answered
        imported = await ask(decode.url, kv_transfer_params={"prfaas": "import", **bounds})
        assert imported.endswith(b"data: [DONE]\n\n")
        alone = await ask(decode.url)
        assert alone.endswith(b"data: [DONE]\n\n")
        lost = {
            "prfaas": "export",
            "destination": "nobody",
            "readers": ["d"],
            "deadline_s": 60.0,
            **bounds,
        }
        lost["transfer_id"] = "t2"
        refused = await ask(prefill.url, kv_transfer_params=lost, max_tokens=1)
        assert b'"ok": false' in refused
        assert b"reason" in refused
    finally:
        for engine in engines:
            await engine.stop()
        await agent.close()
