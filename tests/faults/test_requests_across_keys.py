"""The cache key is exchanged under a gateway's requests: all are answered."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest

from prfaas.testing.mock_deployment import THRESHOLD_TOKENS, MockDeployment

ASKED = 60


async def ask(client: aiohttp.ClientSession, number: int) -> int:
    """Every third is long enough to cross, every fourth is streamed."""
    length = 3 * THRESHOLD_TOKENS if number % 3 == 0 else 12
    body = {"prompt": f"{number:04}" * length, "stream": number % 4 == 0}
    async with client.post("/v1/completions", json=body) as answer:
        await answer.read()
        return answer.status


async def test_requests_under_way_are_answered_and_engines_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        gateway = mock.gateway
        followed = {name: feed.follower for name, feed in gateway._roster.feeds.items()}
        asked = [asyncio.create_task(ask(client, number)) for number in range(ASKED)]
        for number in range(20):
            gateway.rekey(None if number % 2 else number.to_bytes(32, "big"))
            await asyncio.sleep(0.005)
        assert {await task for task in asked} == {200}
        assert {name: f.follower for name, f in gateway._roster.feeds.items()} == followed
        assert gateway.fleet.up == {"e1", "p1", "d1", "d2"}
        gateway.index.check_integrity()
        gateway.pools.index.check_integrity()
        assert await ask(client, 3) == 200
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
