"""The demo's client reads a stream as it comes, and what the gateway says in its headers."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prfaas.core.errors import EngineError
from prfaas.demo.client import Answer, ask, lead
from prfaas.demo.report import differences, table

CHUNKS = (
    b'data: {"choices":[{"text":" one","token_ids":[5]}]}\n\n',
    b'data: {"choices":[{"text":" two","token_ids":[6,7]}]}\n\ndata: [DO',
    b"NE]\n\n",
)


async def _stream(request: web.Request) -> web.StreamResponse:
    headers = {
        "x-prfaas-route": 'offload; reason="uncached 9 > threshold 4"',
        "x-prfaas-total-tokens": "12",
        "x-prfaas-uncached-tokens": "9",
        "x-prfaas-kv-bytes": "2048",
        "x-prfaas-kv-hidden": "0.75",
    }
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for chunk in CHUNKS:
        await response.write(chunk)
    return response


async def _refuse(_: web.Request) -> web.Response:
    return web.json_response({"error": {"message": "no engine is up"}}, status=503)


async def _break_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"error": {"message": "engine died"}}\n\n')
    return response


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def _ask(http: aiohttp.ClientSession, handler) -> Answer:  # type: ignore[no-untyped-def]
    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    async with TestServer(app) as server:
        return await ask(http, str(server.make_url("")).rstrip("/"), model="m", prompt="p")


async def test_text_tokens_and_headers_are_read(http: aiohttp.ClientSession) -> None:
    answer = await _ask(http, _stream)
    assert (answer.text, answer.token_ids) == (" one two", (5, 6, 7))
    assert (answer.route, answer.reason) == ("offload", "uncached 9 > threshold 4")
    assert (answer.total_tokens, answer.uncached_tokens) == (12, 9)
    assert (answer.kv_bytes, answer.kv_hidden) == (2048, 0.75)


async def test_an_error_answer_is_an_error(http: aiohttp.ClientSession) -> None:
    with pytest.raises(EngineError, match=r"answered 503: .*no engine is up"):
        await _ask(http, _refuse)


async def test_an_error_inside_the_stream_is_an_error(http: aiohttp.ClientSession) -> None:
    with pytest.raises(EngineError, match="engine died"):
        await _ask(http, _break_off)


async def test_one_that_says_nothing_more_is_an_error() -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await asyncio.sleep(60)
        return response

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.2)) as hurried:
        with pytest.raises(EngineError, match="broke off: no answer in time"):
            await _ask(hurried, hang)


def test_other_tokens_with_the_same_text_are_a_difference() -> None:
    ours = Answer(text="ab", token_ids=(1, 2), ttft_s=0.1, tokens_per_s=None,
                  route="direct", reason="short", total_tokens=3, uncached_tokens=3)  # fmt: skip
    plain = Answer(text="ab", token_ids=(3,), ttft_s=0.1, tokens_per_s=None)
    assert len(differences({"q": ours}, {"q": plain}, {})) == 1
    assert differences({"q": ours}, {"q": ours}, {}) == []
    assert table({"q": ours}, {"q": plain}, {}).row_count == 1


async def test_how_far_the_best_token_leads_is_asked_for(http: aiohttp.ClientSession) -> None:
    async def complete(request: web.Request) -> web.Response:
        asked = await request.json()
        assert (asked["max_tokens"], asked["temperature"], asked["logprobs"]) == (2, 0, 2)
        ranked = [{"a": -0.5, "b": -3.0}, {"c": -1.25, "d": -1.0}]
        return web.json_response({"choices": [{"logprobs": {"top_logprobs": ranked}}]})

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        assert await lead(http, url, model="m", prompt="p", at=1) == 0.25
