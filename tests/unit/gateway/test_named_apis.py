"""Messages and Responses, by the clients people have, over mock engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from prfaas.gateway import usage
from prfaas.gateway.dialects import dialect_of
from prfaas.gateway.usage import without_cached_tokens
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import expected_words

LONG = "long enough to be handed over, and then some more of it"


def words_of(text: str) -> str:
    return "".join(expected_words(list(text.encode())))


@asynccontextmanager
async def deployed(**settings: Any) -> AsyncIterator[tuple[MockDeployment, str]]:
    mock = MockDeployment(**settings)
    async with mock.running() as client:
        await mock.ready()
        yield mock, str(client._base_url).rstrip("/")


def ask_anthropic(url: str, key: str = "none") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0)


def ask_openai(url: str, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


async def test_a_message_is_handed_over_streamed_or_whole() -> None:
    ask: Any = {
        "model": "mock-model",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": LONG}],
    }
    async with deployed() as (mock, url), ask_anthropic(url) as client:
        raw = await client.messages.with_raw_response.create(**ask)
        assert raw.headers["x-prfaas-route"].startswith("offload")
        assert (await raw.parse()).content[0].text == words_of(f"<user>{LONG}")  # type: ignore[union-attr]
        async with client.messages.stream(**ask) as stream:
            text = "".join([part async for part in stream.text_stream])
        assert text == words_of(f"<user>{LONG}")
        bodies = [b for n in ("d1", "d2") for b in mock.engines[n].bodies("/v1/messages")]
        assert all(b["kv_transfer_params"]["prompt_token_ids"] for b in bodies)
        ended = mock.gateway.requests.recent
        await until(lambda: len(ended) == 2)
        assert [facts.answer_tokens for facts in ended] == [5, 5]
        assert all(facts.outcome == "ok" for facts in ended)


async def test_a_response_is_handed_over_streamed_or_whole() -> None:
    ask: Any = {"model": "mock-model", "input": LONG, "max_output_tokens": 16}
    async with deployed() as (mock, url), ask_openai(url) as client:
        raw = await client.responses.with_raw_response.create(**ask)
        assert raw.headers["x-prfaas-route"].startswith("offload")
        assert raw.parse().output_text == words_of(LONG)
        events = [event async for event in await client.responses.create(**ask, stream=True)]
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        assert text == words_of(LONG)
        assert [e.sequence_number for e in events] == list(range(len(events)))
        bodies = [b for n in ("d1", "d2") for b in mock.engines[n].bodies("/v1/responses")]
        assert all(b["kv_transfer_params"]["prfaas"] == "import" for b in bodies)
        assert all("prompt_token_ids" not in b["kv_transfer_params"] for b in bodies)


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"tools": [{"type": "web_search"}]},
    ],
)
async def test_what_one_engine_must_do_is_not_handed_over(more: dict[str, Any]) -> None:
    async with deployed() as (_, url), ask_openai(url) as client:
        raw = await client.responses.with_raw_response.create(input=LONG, **more)
        assert raw.headers["x-prfaas-route"].startswith("direct")


@pytest.mark.parametrize("store", [True, False])
async def test_no_answer_is_made_in_the_background_where_it_counts_for_nobody(store: bool) -> None:
    async with deployed() as (mock, url), ask_openai(url) as client:
        with pytest.raises(openai.BadRequestError, match="at no gateway"):
            await client.responses.create(input=LONG, background=True, store=store)
        assert not any(engine.bodies("/v1/responses") for engine in mock.engines.values())
        await client.responses.create(input=LONG, background=False)


async def test_errors_are_in_the_form_of_the_api() -> None:
    async with deployed(keys='["secret"]') as (_, url):
        async with ask_anthropic(url, "wrong") as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(model="m", max_tokens=1, messages=[])
        async with ask_anthropic(url, "secret") as client:
            with pytest.raises(anthropic.NotFoundError) as refused:
                await client.messages.create(
                    model="other", max_tokens=1, messages=[{"role": "user", "content": "a"}]
                )
            assert refused.value.body["type"] == "error"  # type: ignore[index]
        async with ask_openai(url, "secret") as client:
            with pytest.raises(openai.NotFoundError):
                await client.responses.create(model="other", input="a")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/completions"])
async def test_a_client_that_waits_is_told_so_and_of_failure_by_an_event(path: str) -> None:
    prompt = {
        "/v1/messages": {"messages": [{"role": "user", "content": LONG}]},
        "/v1/responses": {"input": LONG},
        "/v1/completions": {"prompt": LONG},
    }
    ask = {"stream": True, "max_tokens": 4, **prompt[path]}
    async with (
        deployed(gateway='  keepalive: "10 ms"', deadline="1 s") as (mock, url),
        aiohttp.ClientSession(url) as client,
    ):
        mock.engines["e1"].prefill_gate.clear()
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.clear()
        async with client.post(path, json=ask) as response:
            assert response.status == 200
            assert (await response.content.readline()).startswith(b":")
            rest = await response.read()
        last = rest.rstrip().rpartition(b"\n\n")[2]
        assert dialect_of(path).begins_with_error(last + b"\n\n")


async def test_a_client_may_ask_for_no_comments() -> None:
    ask = {"stream": True, "prompt": LONG}
    async with (
        deployed(gateway='  keepalive: "5 ms"', deadline="300 ms") as (mock, url),
        aiohttp.ClientSession(url) as client,
    ):
        mock.engines["e1"].prefill_gate.clear()
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.clear()
        headers = {"X-Prfaas-Keepalive": "off"}
        async with client.post("/v1/completions", json=ask, headers=headers) as response:
            assert response.status == 504


async def test_after_comments_the_answer_is_whole() -> None:
    async with (
        deployed(gateway='  keepalive: "10 ms"') as (mock, url),
        ask_anthropic(url) as client,
    ):
        mock.engines["e1"].prefill_gate.clear()

        async def ask() -> str:
            async with client.messages.stream(
                model="mock-model", max_tokens=9, messages=[{"role": "user", "content": LONG}]
            ) as stream:
                return "".join([part async for part in stream.text_stream])

        asking = asyncio.ensure_future(ask())
        await until(lambda: bool(mock.gateway.requests._live))
        (exchange,) = mock.gateway.requests._live
        await until(lambda: exchange.response.opened)
        mock.engines["e1"].prefill_gate.set()
        assert await asking == words_of(f"<user>{LONG}")


async def test_embeddings_go_to_an_engine_that_has_them() -> None:
    async with deployed() as (mock, url), ask_openai(url) as client:
        with pytest.raises(openai.NotFoundError, match="no engine that is up serves"):
            await client.embeddings.create(model="mock-model", input="abc", encoding_format="float")
    mock = MockDeployment()
    mock.engines["d2"].embeds = True
    async with mock.running() as session:
        await mock.ready()
        async with ask_openai(str(session._base_url).rstrip("/")) as client:
            found = await client.embeddings.create(
                model="mock-model", input="abc", encoding_format="float"
            )
            assert found.data[0].embedding == [3.0]
            assert (await client.models.retrieve("mock-model")).id == "mock-model"
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("other")
    assert mock.engines["d2"].bodies("/v1/embeddings")


def test_what_was_cached_is_taken_out_of_every_usage() -> None:
    message = b'{"usage":{"input_tokens":2,"output_tokens":5,"cache_read_input_tokens":8}}'
    usage = json.loads(without_cached_tokens(message, message=True))["usage"]
    assert usage == {"input_tokens": 10, "output_tokens": 5}
    response = b'{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":8}}}'
    usage = json.loads(without_cached_tokens(response, message=True))["usage"]
    assert usage["input_tokens"] == 9
    assert usage["input_tokens_details"]["cached_tokens"] == 0
    pictures = (
        b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":'
        b'{"cached_tokens":8,"multimodal_tokens":{"image":3}},"completion_tokens":1}}'
    )
    usage = json.loads(without_cached_tokens(pictures, message=True))["usage"]
    assert usage == {"prompt_tokens": 9, "prompt_tokens_details": None, "completion_tokens": 1}
    text = b'{"usage":{"prompt_tokens":9},"choices":[{"text":"_input_tokens"}]}'
    assert without_cached_tokens(text, message=True) == text
    untold = b'{"usage":{"input_tokens":"?","cache_read_input_tokens":8}}'
    assert b"8" not in without_cached_tokens(untold, message=True)


def test_what_a_request_says_again_is_not_read_as_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tools with a million such objects it would take seconds."""
    monkeypatch.setattr(usage, "_all_as_input", None)
    tools = b'{"usage":{"cache_read_input_tokens":1,"input_tokens":1}},' * 1000
    assert usage.without_cached_tokens(tools, message=False) == tools


async def test_tokens_are_counted_whatever_a_request_says_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "_READ_BYTES", 1000)
    tools = b",".join([b'{"usage":{"output_tokens":900}}'] * 1000)
    content = b'{"tools":[%b],"usage":{"output_tokens":7}}' % tools
    assert (await usage.counts_in(content)).answer == 7


def test_what_is_too_long_for_usage_is_none() -> None:
    for more in (b"a" * 1_000_000, b"{}" * 100_000, b'"usage":{' * 10_000):
        content = b'{"usage":{"input_tokens":1,"cache_read_input_tokens":2,' + more + b"}}"
        assert without_cached_tokens(content, message=True) == content
