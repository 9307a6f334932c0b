"""Streamed answers: what of an engine's events reaches the client, and what is told of it."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.gateway import answers
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


@given(
    events=st.lists(st.binary(max_size=8).map(lambda b: b":" + b.replace(b"\n", b"") + b"\n\n")),
    rest=st.sampled_from([b"", b"data: ha"]),
    cuts=st.lists(st.integers(0, 80)),
)
def test_a_stream_is_passed_on_byte_for_byte_in_whole_events(
    events: list[bytes], rest: bytes, cuts: list[int]
) -> None:
    sent = b"".join(events) + rest
    places = sorted({min(cut, len(sent)) for cut in cuts} | {0, len(sent)})
    passed = asyncio.run(pass_on([sent[a:b] for a, b in pairwise(places)]))
    assert b"".join(passed) == sent
    assert all(piece.endswith(b"\n\n") for piece in passed[: -1 if rest else None])


async def pass_on(pieces: list[bytes]) -> list[bytes]:
    """What goes out where the engine's bytes come in these pieces."""
    coming = iter(pieces)

    async def readany() -> bytes:
        return next(coming, b"")

    stream = answers.EventStream("e", SimpleNamespace(readany=readany))  # type: ignore[arg-type]
    passed: list[bytes] = []
    while piece := await stream.next():
        passed.append(piece)
    return passed


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_LONGEST_EVENT", 10)
    assert asyncio.run(pass_on([b"12345", b"67890", b"1", b"2\n", b"\n3", b"4"])) == [
        b"12345678901",
        b"2\n\n",
        b"34",
    ]


ENDLESS = [b"data: " + b"x" * (1 << 20) + b"\n\n"] * 64
"""More than all buffers on the way hold."""


async def test_a_client_that_stops_reading_gives_its_decode_slot_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("prfaas.gateway.client_response._CLIENT_PATIENCE_S", 0.05)
    mock = scripted(*ENDLESS, journal_file=tmp_path / "events.jsonl")
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json=BODY):
            await until(lambda: len(answering(mock).cancelled) == 1)
            await until(lambda: mock.gateway.requests.inflight == 0)
    assert b"the client stopped reading" in (tmp_path / "events.jsonl").read_bytes()


async def test_an_engine_that_dies_under_a_client_that_stopped_reading_ends_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.gateway.client_response._CLIENT_PATIENCE_S", 5.0)
    mock = scripted(*ENDLESS)
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json=BODY):
            (exchange,) = mock.gateway._driver._exchanges.values()  # type: ignore[union-attr]
            await until(lambda: exchange.response._request.protocol.writing_paused)
            victim = answering(mock)
            await victim.stop()
            mock.gateway.fleet.suspect(victim.name)
            await until(lambda: mock.gateway.requests.inflight == 0)
