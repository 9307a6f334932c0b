"""Prompts are tokenised once, by an engine, or reach one as they came."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from prfaas.gateway import prompts
from prfaas.gateway.body import RequestBody
from prfaas.gateway.endpoints import EngineEndpoint
from prfaas.gateway.engine_client import EngineAnswer
from prfaas.testing.asking import answer_to
from prfaas.testing.mock_deployment import MockDeployment, journalled, until

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
MIDDLE = "longer than one block"
COMPLETIONS = "/v1/completions"
TOKENS_COUNT = "  tenants: [{name: t, api_keys: [k], tokens_per_min: 100K}]"


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


SHORT = "less than a block of 256 tokens, whatever the tokens are"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": SHORT}),
        (COMPLETIONS, {"prompt": list(range(50))}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": SHORT}]}),
    ],
)
async def test_a_prompt_shorter_than_any_block_is_not_tokenised_first(
    path: str, body: dict[str, Any]
) -> None:
    mock = MockDeployment(block_tokens=256, threshold_tokens=10)
    async with mock.running() as client:
        await mock.ready()
        async with client.post(path, json=body) as response:
            assert response.status == 200
            assert response.headers["x-prfaas-route"].startswith(
                'direct; reason="shorter than a block, so not tokenised here; '
            )
            assert "x-prfaas-total-tokens" not in response.headers
            (got,) = mock.engines[response.headers["x-prfaas-decode-engine"]].bodies(path)
        assert got == body
        assert not any(engine.renders_total for engine in mock.engines.values())
        assert mock.gateway.metrics.tenant_tokens.values["default", "prompt"] > 0


@pytest.mark.parametrize(
    ("settings", "body"),
    [
        ({"block_tokens": 256}, {"prompt": "x" * 256}),
        ({"block_tokens": 16}, {"prompt": SHORT}),
        ({"block_tokens": 4096}, {"prompt": "x" * 600}),
        ({"block_tokens": 256, "gateway": TOKENS_COUNT}, {"prompt": SHORT}),
    ],
)
async def test_a_prompt_of_which_something_may_be_known_is_tokenised(
    settings: dict[str, Any], body: dict[str, Any]
) -> None:
    mock = MockDeployment(**settings)
    async with mock.running() as client:
        await mock.ready()
        headers = {"Authorization": "Bearer k"}
        async with client.post(COMPLETIONS, json=body, headers=headers) as response:
            assert response.headers["x-prfaas-total-tokens"] == str(len(body["prompt"]))
        assert sum(engine.renders_total for engine in mock.engines.values()) == 1


@pytest.mark.parametrize(
    ("said", "most"), [({"max_tokens": 16}, 16), ({}, 16), ({"max_tokens": 9}, 9)]
)
async def test_an_answer_as_long_as_by_vllms_default_is_known_to_be(
    said: dict[str, int], most: int, tmp_path: Path
) -> None:
    mock = MockDeployment(journal_file=tmp_path / "journal")
    async with mock.running() as client:
        await mock.ready()
        response, _ = await ask(client, prompt="x" * 100, **said)
        assert response.status == 200
    (timeline,) = journalled(tmp_path / "journal")
    assert timeline.max_output_tokens == most


@pytest.mark.parametrize(
    ("body", "unsaid"),
    [
        ({}, False),  # vLLM's default.
        ({"max_tokens": None}, True),
        ({"max_tokens": 7}, False),
    ],
)
def test_an_answer_of_which_nobody_knows_how_long_it_may_be(
    body: dict[str, Any], unsaid: bool
) -> None:
    found = prompts.short_prompt(RequestBody(COMPLETIONS, json.dumps(body).encode()), 100)
    assert found is not None
    assert found.unsaid is unsaid


async def test_what_an_engine_refuses_of_a_short_prompt_is_the_answer() -> None:
    mock = MockDeployment(block_tokens=256)
    async with mock.running() as client:
        await mock.ready()
        response, content = await ask(client, prompt=SHORT, model="nobody-has-it")
        assert (response.status, "nobody-has-it" in content) == (404, True)


async def test_while_an_engine_has_not_said_how_large_its_blocks_are_all_is_tokenised() -> None:
    mock = MockDeployment(block_tokens=256)
    agent = mock.engines["d2"].agent
    agent.ranks = [rank for rank in agent.ranks if rank["engine"] != "d2"]
    async with mock.running() as client:
        await until(lambda: mock.gateway.fleet.layouts.is_whole("d1"))
        await ask(client, prompt=SHORT)
        assert sum(engine.renders_total for engine in mock.engines.values()) == 1


async def test_a_prompt_that_takes_every_engine_long_is_not_asked_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pictures may come from a server that never answers."""
    waits: list[float] = []
    wait = asyncio.wait

    async def noted(tasks: Any, *, timeout: float, **more: Any) -> Any:
        waits.append(timeout)
        return await wait(tasks, timeout=timeout, **more)

    monkeypatch.setattr(prompts, "_HEDGE_S", 0.01)
    names = [f"e{number}" for number in range(1000)]
    engine = EngineEndpoint(
        name="", cluster="c", machine="m", agent="a", role="decode", url="http://h",
        kv_events=None, kv_events_replay=None, events_at_agent=False, carried=False,
    )  # fmt: skip
    asked = Counter[str]()

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        async def render(self, *_: Any) -> Any:
            asked[self.name] += 1
            await asyncio.sleep(1.0)
            return EngineAnswer(400, "application/json", b"{}")

    monkeypatch.setattr(prompts.asyncio, "wait", noted)
    renderer = prompts.Renderer(
        {name: msgspec.structs.replace(engine, name=name) for name in names},
        {name: Slow(name) for name in names},  # type: ignore[misc]
        up=lambda: frozenset(names),
        suspect=lambda name: None,
    )
    body = RequestBody("/v1/completions", b'{"prompt": "x"}')
    assert isinstance(await renderer.render(body, {}), EngineAnswer)
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0]
    assert len(asked) < 12
