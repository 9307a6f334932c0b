"""A workload sent to a mock endpoint over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from prfaas.bench.asking import Prompts
from prfaas.bench.endpoint import Endpoint, api_key_of
from prfaas.bench.load import Pace, send
from prfaas.bench.outcomes import Outcome
from prfaas.core.errors import CallerError, EngineError
from prfaas.testing.mock_deployment import until
from prfaas.testing.mock_http import MockServer
from prfaas.workload.requests import Workload

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
EVENTS = (
    b'data: {"choices": [{"text": ""}]}\n\n',
    b'data: {"choices": [{"text": " a"}]}\r\n\r\n',
    b'data: {"choices": [{"delta": {"content": " b"}}]}\n\n',
    b": a comment\n\n",
    b'data: {"choices": [], "usage": {"prompt_tokens": 41, "completion_tokens": 7}}\n\n',
    b"data: [DONE]\n\n",
)


class MockEndpoint(MockServer):
    """Answers as it is told; notes how many requests were under way at a time."""

    def __init__(self, *events: bytes) -> None:
        super().__init__()
        self.events = events or EVENTS
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = self.most = self.asked = 0
        self.keys: set[str | None] = set()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/models", self._models),
            web.post("/v1/completions", self._answer),
            web.post("/v1/chat/completions", self._answer),
        ]

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": 1000}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.keys.add(request.headers.get("Authorization"))
        self.asked += 1
        if self.status != 200:
            return web.Response(status=self.status, text="too many")
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            response = web.StreamResponse(headers={"x-prfaas-route": 'offload; reason="long"'})
            await response.prepare(request)
            await self.gate.wait()
            for event in self.events:
                await response.write(event)
        finally:
            self.now -= 1
        return response


@asynccontextmanager
async def asking(mock: MockEndpoint, key: str | None = None) -> AsyncIterator[Endpoint]:
    await mock.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Endpoint(mock.url + "/v1/", session, api_key=key, timeout_s=60.0)
    finally:
        await mock.stop()


def workload(count: int, gap_s: float = 0.0) -> Workload:
    return Workload([gap_s * n for n in range(count)], [20] * count, [7] * count)


async def sent(
    endpoint: Endpoint, work: Workload, pace: Pace, told: list[tuple[int, int, int]] | None = None
) -> list[Outcome]:
    notes: list[tuple[int, int, int]] = [] if told is None else told
    prompts = Prompts(work, "completions", 1)
    return await send(prompts, endpoint, "m", "completions", pace, lambda *now: notes.append(now))


async def test_tokens_are_timed_and_counted_as_the_endpoint_counts() -> None:
    mock, told = MockEndpoint(), []
    async with asking(mock, "secret") as endpoint:
        assert (await endpoint.served(None)).longest == 1000
        outcomes = await sent(endpoint, workload(3), Pace(), told)
    for outcome in outcomes:
        assert outcome.completed
        assert len(outcome.tokens_at) == 2
        assert (outcome.output_tokens, outcome.prompt_tokens) == (7, 41)
        assert outcome.route == "offload"
        assert outcome.sent <= outcome.tokens_at[0] <= outcome.tokens_at[1] <= outcome.ended
    assert told[-1] == (3, 3, 0)
    assert mock.keys == {"Bearer secret"}


async def test_no_more_at_a_time_than_asked_for() -> None:
    mock = MockEndpoint()
    async with asking(mock) as endpoint:
        outcomes = await sent(endpoint, workload(12), Pace(timed=False, concurrency=3))
    assert mock.most <= 3
    assert len(outcomes) == 12
    assert all(outcome.due == outcome.sent for outcome in outcomes)


async def test_requests_are_sent_when_due_whatever_became_of_the_others() -> None:
    mock = MockEndpoint()
    mock.gate.clear()
    async with asking(mock) as endpoint:
        run = asyncio.create_task(sent(endpoint, workload(5, 0.01), Pace()))
        await until(lambda: mock.now == 5)
        mock.gate.set()
        outcomes = await run
    assert [outcome.due for outcome in outcomes] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert all(outcome.sent >= outcome.due for outcome in outcomes)


async def test_none_is_sent_after_the_duration() -> None:
    mock = MockEndpoint()
    async with asking(mock) as endpoint:
        outcomes = await sent(endpoint, workload(1000, 0.02), Pace(duration_s=0.05))
    assert 1 <= len(outcomes) < 1000


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (EVENTS[:-1], "ended without [DONE]"),
        ((b'data: {"error": {"message": "it died"}}\n\n', b"data: [DONE]\n\n"), "error in the s"),
        ((b"data: {nonsense\n\n",), "not an answer"),
    ],
)
async def test_half_an_answer_is_none(events: tuple[bytes, ...], error: str) -> None:
    async with asking(MockEndpoint(*events)) as endpoint:
        (outcome,) = await sent(endpoint, workload(1), Pace())
    assert not outcome.completed
    assert (outcome.error or "").startswith(error)


async def test_refusals_and_a_server_that_is_not_there_are_told_apart() -> None:
    mock = MockEndpoint()
    mock.status = 429
    async with asking(mock) as endpoint:
        (outcome,) = await sent(endpoint, workload(1), Pace())
        assert (outcome.error, outcome.message) == ("HTTP 429", "too many")
        await mock.stop()
        (outcome,) = await sent(endpoint, workload(1), Pace())
        assert (outcome.error or "").startswith("connection: ")
        with pytest.raises(EngineError, match="cannot be reached"):
            await endpoint.served(None)


async def test_what_was_answered_before_an_interrupt_counts() -> None:
    mock = MockEndpoint()
    async with asking(mock) as endpoint:
        done: list[tuple[int, int, int]] = []
        run = asyncio.create_task(sent(endpoint, workload(500, 0.01), Pace(), done))
        await until(lambda: len(done) >= 3)
        run.cancel()
        outcomes = await run
    assert 3 <= len(outcomes) < 500
    assert all(outcome.completed for outcome in outcomes)


async def test_another_model_is_named() -> None:
    async with asking(MockEndpoint()) as endpoint:
        with pytest.raises(CallerError, match="does not serve 'x'; it serves m"):
            await endpoint.served("x")


def test_a_key_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(CallerError, match="no such variable"):
        api_key_of("NO_KEY")
