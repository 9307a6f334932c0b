"""Prompts are tokenised once, by an engine, or reach one as they came."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from prfaas.testing.asking import answer_to
from prfaas.testing.mock_deployment import MockDeployment

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
MIDDLE = "longer than one block"
COMPLETIONS = "/v1/completions"


async def ask(client: aiohttp.ClientSession, **body: Any) -> tuple[aiohttp.ClientResponse, str]:
    """The response and its text: of its first choice, or as it is."""
    async with client.post(COMPLETIONS, json=body) as response:
        content = await response.text()
        return response, json.loads(content)["choices"][0]["text"] if response.ok else content


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"prompt": [LONG, MIDDLE]}, "batch of 2 prompts"),
        ({"prompt": LONG, "echo": True}, "echo asks for the prompt as it came"),
        ({"prompt": LONG, "prompt_logprobs": 1}, "the whole prompt must be computed"),
    ],
)
async def test_shapes_that_need_the_engine_alone_reach_it_byte_for_byte(
    body: dict[str, Any], reason: str
) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        response, text = await ask(client, **body)
        assert text == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith(f'direct; reason="{reason}')
        (got,) = mock.engines[response.headers["x-prfaas-decode-engine"]].bodies(COMPLETIONS)
        assert got == body


async def test_engines_that_cannot_render_are_still_served() -> None:
    mock = MockDeployment()
    for engine in mock.engines.values():
        engine.renders = False
    async with mock.running() as client:
        await mock.ready()
        response, text = await ask(client, prompt=LONG)
        assert text == answer_to(LONG)
        assert "does not render" in response.headers["x-prfaas-route"]


async def test_where_nothing_is_up_to_render_the_client_is_told_to_come_back() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            await engine.stop()
        response, content = await ask(client, prompt=LONG)
        assert response.status == 503
        assert "no engine is up" in content


async def test_where_every_renderer_is_full_the_client_is_told_when_to_come_back() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine.render_status = 429
        response, _ = await ask(client, prompt=LONG)
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        assert [engine.renders_total for engine in mock.engines.values()] == [1] * 4
