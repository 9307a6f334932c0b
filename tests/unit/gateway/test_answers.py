"""Streamed answers: what of an engine's events reaches the client, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas.gateway import answers, usage
from prfaas.gateway.dialects import dialect_of
from prfaas.testing.mock_deployment import MockDeployment, journalled, until
from prfaas.testing.mock_engine import MockEngine

BODY = {"prompt": "abc", "stream": True}
COMPLETIONS = "/v1/completions"
WORD = b'data: {"choices": [{"index": 0, "text": " a"}]}\n\n'
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def error_event(code: int, message: str = "no such token") -> bytes:
    """As vLLM sends it."""
    error = {"message": message, "type": "BadRequestError", "param": "logit_bias", "code": code}
    return f"data: {json.dumps({'error': error})}\n\n".encode()


def scripted(*script: bytes | asyncio.Event, journal_file: Path | None = None) -> MockDeployment:
    """Decode engines that follow the script."""
    mock = MockDeployment(journal_file=journal_file)
    for name in ("d1", "d2"):
        mock.engines[name].script = list(script)
    return mock


async def ask(client: aiohttp.ClientSession) -> tuple[aiohttp.ClientResponse, bytes]:
    async with client.post(COMPLETIONS, json=BODY) as response:
        return response, await response.read()


def answering(mock: MockDeployment) -> MockEngine:
    return next(mock.engines[n] for n in ("d1", "d2") if mock.engines[n].requests)


@pytest.mark.parametrize("code", [400, 422])
async def test_a_refusal_in_the_first_event_is_the_clients_answer(code: int) -> None:
    mock = scripted(KEEP_ALIVE, error_event(code), DONE)
    async with mock.running() as client:
        await mock.ready()
        response, content = await ask(client)
        assert (response.status, response.content_type) == (code, "application/json")
        assert json.loads(content)["error"]["param"] == "logit_bias"
        assert response.headers["x-prfaas-attempts"] == "1"
        assert sum(len(engine.requests) for engine in mock.engines.values()) == 1


async def test_comments_before_the_first_token_do_not_open_the_stream() -> None:
    mock = MockDeployment()
    mock.engines["d1"].script = [KEEP_ALIVE, KEEP_ALIVE, error_event(500)]
    mock.engines["d2"].script = [KEEP_ALIVE, WORD, KEEP_ALIVE, DONE]
    async with mock.running() as client:
        await mock.ready()
        response, content = await ask(client)
        assert content == WORD + KEEP_ALIVE + DONE
        assert response.headers["x-prfaas-decode-engine"] == "d2"


async def test_a_text_with_the_words_that_end_an_answer_does_not_end_it() -> None:
    said = b'data: {"choices": [{"index": 0, "text": "it ends with data: [DONE]"}]}\n\n'
    first, then = asyncio.Event(), asyncio.Event()
    mock = scripted(said, first, said, then, WORD, DONE)
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json=BODY) as response:
            for gate in (first, then):
                assert await response.content.readuntil(b"\n\n") == said
                gate.set()
            assert await response.content.read() == WORD + DONE


@pytest.mark.parametrize("dies", [False, True])
async def test_the_event_that_ends_an_answer_may_be_large(dies: bool) -> None:
    """A response says all of itself again in its last."""
    delta = b"event: response.output_text.delta\ndata: {}\n\n"
    whole = json.dumps({"response": {"output": "x" * (3 << 20)}}).encode()
    last = b"event: response.completed\ndata: " + whole + b"\n\n"

    async def answer(request: web.Request, *_: object) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(delta)
        await response.write(last[: 2 << 20] if dies else last)
        return response

    mock = MockDeployment()
    for engine in mock.engines.values():
        engine._answer = answer  # type: ignore[method-assign]
    async with mock.running() as client:
        await mock.ready()
        body = {"input": "abc", "stream": True}
        async with client.post("/v1/responses", json=body) as response:
            content = await response.read()
        (facts,) = mock.gateway.requests.recent
        assert content.startswith(delta)
        if dies:
            assert b"event: error\n" in content[-1000:]
            assert facts.outcome != "ok"
        else:
            assert content == delta + last
            assert facts.outcome == "ok"


async def test_an_engine_that_dies_in_the_middle_of_an_event_leaves_no_half_of_it() -> None:
    gate = asyncio.Event()
    mock = scripted(WORD, gate, WORD + WORD[:20], asyncio.Event())
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json=BODY) as response:
            content = await response.content.readuntil(b"\n\n")
            gate.set()
            content += await response.content.readuntil(b"\n\n")
            await answering(mock).stop()
            content += await response.read()
        assert content.startswith(WORD + WORD + b'data: {"error"')
        assert json.loads(content.split(b"data: ")[-1])["error"]["code"] == 502


async def test_an_error_event_in_mid_stream_is_passed_on_and_recorded(tmp_path: Path) -> None:
    said = WORD + error_event(500, "EngineCore died") + DONE
    mock = scripted(said, journal_file=tmp_path / "events.jsonl")
    async with mock.running() as client:
        await mock.ready()
        response, content = await ask(client)
        assert (response.status, content) == (200, said)
        metrics = await (await client.get("/metrics")).text()
        assert 'outcome="engine_error"' in metrics
    (trace,) = journalled(tmp_path / "events.jsonl")
    assert (trace.outcome, trace.error) == ("engine_error", "EngineCore died")


def test_an_event_with_but_the_usage_is_no_token() -> None:
    events = b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[],"usage":{}}\n\n'
    assert dialect_of(COMPLETIONS).tokens_in(events) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 70}},
        {
            "choices": [{"index": 0, "text": ""}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 70},
        },
        {
            "type": "message_delta",
            "usage": {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 70},
        },
        {
            "type": "response.completed",
            "response": {"id": "r", "usage": {"input_tokens": 3, "output_tokens": 70}},
        },
    ],
)
def test_a_stream_tells_its_usage_in_each_api(event: dict[str, Any]) -> None:
    told = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    said = {"choices": [{"index": 0, "text": told.decode() + '"usage":{"completion_tokens":9}'}]}
    text = b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"
    assert usage.counts_told(text) == (None, 0)
    for events in (text + told, told.replace(b"\n", b"\r\n")):
        assert usage.counts_told(events) == (70, 3)
    alone = event.get("choices") == []
    assert usage.without_last_usage(text + told + DONE) == text + (b"" if alone else told) + DONE


def test_no_text_of_an_answer_counts_as_tokens() -> None:
    """A prompt that is echoed is part of one: engines would seem to answer faster than they do."""
    event = b'data: {"choices":[{"text":"data: data: "}]}'
    for end in (b"\n\n", b"\r\n\r\n"):
        assert dialect_of(COMPLETIONS).tokens_in((event + end) * 3) == 3


async def test_what_comes_before_the_first_token_has_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "_LONGEST_OPENING", 1000)
    begun = b"event: response.created\ndata: {}\n\n"

    async def first() -> bytes:
        return begun

    endless, dialect = SimpleNamespace(first=first, torn=False), dialect_of("/v1/responses")
    assert await answers._first_of_answer(endless, dialect) == []  # type: ignore[arg-type]


async def test_what_comes_before_the_first_token_is_not_looked_at_as_a_whole() -> None:
    """It says the request again, which may have megabytes."""
    begun, token = b"event: response.created\ndata: {}\n\n", b"event: response.delta\ndata: {}\n\n"
    coming = iter([begun, begun, token])

    async def first() -> bytes:
        return next(coming)

    stream, dialect = SimpleNamespace(first=first, torn=False), dialect_of("/v1/responses")
    found = await answers._first_of_answer(stream, dialect)  # type: ignore[arg-type]
    assert found == [begun, begun, token]


async def test_what_came_before_the_first_token_goes_out_in_pieces_and_is_let_go() -> None:
    begun, token = b"event: response.created\ndata: {}\n\n", b"event: x.delta\ndata: {}\n\n"
    over = b"event: response.completed\ndata: {}\n\n"
    passed: list[bytes] = []

    async def write(events: bytes) -> None:
        passed.append(events)

    async def following() -> bytes:
        assert not pieces
        return over

    pieces = [begun, begun, token]
    stream = SimpleNamespace(next=following, torn=False, whole=True)
    response = SimpleNamespace(write=write, finish=write, succeed=bool, prompt_told=0)
    dialect, engine = dialect_of("/v1/responses"), SimpleNamespace(name="e")
    count = await answers._pass_on(engine, stream, pieces, dialect, response, 0)  # type: ignore[arg-type]
    assert (count, passed) == (1, [begun, begun, token, over])


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("told", "counted"), [(7, 7), (10**18, 100), (-5, 0)])
async def test_no_answer_counts_as_more_tokens_than_bytes(
    told: int, counted: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_PIECE_BYTES", 90)
    monkeypatch.setattr(usage, "_READ_BYTES", 90 if large else 100)
    content = b'{"usage":{"completion_tokens":%d},"text":"' % told
    assert (await usage.counts_in(content.ljust(98, b"a") + b'"}')).answer == counted


@pytest.mark.parametrize("fields", [b"%b,%b", b"%b,%b,%b"], ids=["at the end", "in the middle"])
async def test_others_have_turns_while_a_large_answer_is_looked_at(
    fields: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one of the logprobs of a long prompt it would take half a second."""
    counts = b'"usage":{"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":64}}'
    logprobs = b'"logprobs":[%b]' % b",".join([b'{"a":-1.5}'] * 1_000_000)
    inside = (logprobs, counts, logprobs)[: fields.count(b"%b")]
    content = b"{%b}" % (fields % inside)
    longest, turns, plainly = 0, 0, usage.without_cached_tokens

    def looked_at(piece: bytes, *, message: bool) -> bytes:
        nonlocal longest
        longest = max(longest, len(piece))
        return plainly(piece, message=message)

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(usage, "without_cached_tokens", looked_at)
    monkeypatch.setattr(usage, "_READ_BYTES", 1024 * 1024)
    others = asyncio.ensure_future(other())
    assert (await usage.counts_in(content)).answer == 7
    assert turns >= 10
    told = await usage.without_cached_tokens_in_turns(content, message=False)
    assert told == plainly(content, message=False)
    assert turns >= 20
    others.cancel()
    assert longest <= 1024 * 1024


async def test_a_large_answer_is_put_together_beside_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is all of it read to see that it is one."""
    mock, decoded = scripted(), list[int]()
    garbage = b'{"a":"%b","usage":{"completion_tokens":3}}' % (b"x" * (6 << 20))
    for engine in mock.engines.values():
        engine.garbage = garbage
    apart, to_thread = 0, asyncio.to_thread
    decode = answers._OBJECT.decode

    async def noted(what: Any, *args: Any) -> Any:
        nonlocal apart
        apart += 1
        return await to_thread(what, *args)

    def read(content: bytes) -> Any:
        decoded.append(len(content))
        return decode(content)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    monkeypatch.setattr(answers, "_OBJECT", SimpleNamespace(decode=read))
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json={"prompt": "abc"}) as response:
            assert (response.status, await response.read()) == (200, garbage)
        await until(lambda: bool(mock.gateway.requests.recent))
        assert mock.gateway.requests.recent[0].answer_tokens == 3
    assert apart
    assert not decoded
