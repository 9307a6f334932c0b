"""What an engine's answers and silences mean."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from prfaas.core.errors import EngineError
from prfaas.gateway import engine_client
from prfaas.gateway.body import RequestBody
from prfaas.gateway.engine_client import EngineAnswer, EngineClient
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.upstream_errors import CannotRender, EngineFull, EngineUnreachable
from prfaas.testing import mock_engine
from prfaas.testing.mock_agent import MockAgent
from prfaas.testing.mock_engine import MockEngine

BODY = RequestBody("/v1/completions", b'{"prompt": "abc", "max_tokens": 5}')


@asynccontextmanager
async def engine_and_client(
    *, renders: bool = True
) -> AsyncIterator[tuple[MockEngine, EngineClient]]:
    engine, http = MockEngine("d1", MockAgent("a"), {}), HttpClient()
    engine.renders = renders
    await engine.start()
    try:
        yield engine, EngineClient("d1", engine.url, http)
    finally:
        await http.close()
        await engine.stop()


async def test_health_says_what_is_wrong() -> None:
    async with engine_and_client() as (engine, client):
        assert await client.sickness() is None
        engine.health_status = 503
        sickness = await client.sickness()
        assert sickness is not None
        assert (sickness.why, sickness.refused) == ("health check answered 503", False)
        await engine.stop()
        await client.sickness()  # The kept connection breaks.
        sickness = await client.sickness()
        assert sickness is not None
        assert sickness.refused


async def test_rendering() -> None:
    async with engine_and_client() as (engine, client):
        rendered = await client.render(BODY, {})
        assert isinstance(rendered, list)
        assert (list(rendered[0].token_ids.first(9)), rendered[0].sampling_params.max_tokens) == (
            [97, 98, 99],
            5,
        )
        engine.render_status = 422
        refused = await client.render(BODY, {})
        assert isinstance(refused, EngineAnswer)
        assert refused.status == 422
        engine.render_status = 429
        with pytest.raises(EngineFull):
            await client.render(BODY, {})
        engine.render_status = 500
        with pytest.raises(EngineError, match="d1 answered 500: the template failed"):
            await client.render(BODY, {})
    async with engine_and_client(renders=False) as (_, client):
        with pytest.raises(CannotRender):
            await client.render(BODY, {})


@pytest.mark.parametrize("length", [-1, 1 << 63, 10**400])
async def test_a_length_that_no_answer_has_is_the_engines_fault(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = {"max_tokens": length}
    said = [{"token_ids": [97], "sampling_params": sampling, "stream": False}]
    async with engine_and_client() as (_, client):
        monkeypatch.setattr(mock_engine, "_rendered", lambda *_: said[0])
        with pytest.raises(EngineError, match="unreadable render answer"):
            await client.render(BODY, {})


async def test_an_engine_without_the_scale_out_endpoints_is_not_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """vLLM 0.32 says 403 at them, of whatever key."""
    said = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable"

    async def disabled(*_: object) -> web.Response:
        return web.json_response({"error": {"message": said}}, status=403)

    monkeypatch.setattr(mock_engine.MockEngine, "_render", disabled)
    async with engine_and_client() as (_, client):
        with pytest.raises(CannotRender):
            await client.render(BODY, {})
        assert client.locked is None


async def test_a_prompt_has_no_more_tokens_than_it_can_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_client, "_TEMPLATE_TOKENS", 0)
    long = RequestBody("/v1/completions", b'{"prompt": "%s"}' % (b"a" * 1000))
    async with engine_and_client() as (_, client):
        assert await client.render(long, {})
        long.raw = BODY.raw
        monkeypatch.setattr(mock_engine, "_prompts", lambda body: [[1] * 1000])
        with pytest.raises(EngineError, match="1000 tokens of 34 bytes"):
            await client.render(long, {})


async def test_a_prefill_that_exported_nothing_says_why() -> None:
    async with engine_and_client() as (engine, client):
        with pytest.raises(EngineError, match="is its connector set up"):
            await client.prefill(BODY.raw, {"X-Request-Id": "r"})
        engine.fail_with_status = 404
        with pytest.raises(EngineError, match=r"refused the prefill \(404\)"):
            await client.prefill(BODY.raw, {"X-Request-Id": "r"})
        await engine.stop()
        for kind in (EngineError, EngineUnreachable):
            with pytest.raises(kind):
                await client.prefill(BODY.raw, {"X-Request-Id": "r"})


async def test_what_an_engine_says_is_heard() -> None:
    async with engine_and_client() as (_, client):
        before = client.heard_at
        answer = await client.open_answer("/v1/completions", BODY.raw, {"X-Request-Id": "r"})
        answer.close()
        assert client.heard_at > before


async def test_what_is_read_here_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_and_client() as (_, client):
        assert (await client.models()).status == 200
        monkeypatch.setattr(engine_client, "_MOST_SAID", 10)
        monkeypatch.setattr(engine_client, "_MOST_RENDERED", 10)
        for asked in (
            client.models(),
            client.kv_event_source(),
            client.kv_blocks(),
            client.render(BODY, {}),
            client.prefill(BODY.raw, {"X-Request-Id": "r"}),
        ):
            with pytest.raises(EngineError, match="the answer has more than 10 bytes"):
                await asked
