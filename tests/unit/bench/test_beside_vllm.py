"""`prfaas bench` beside `vllm bench serve`: it asks the same, and counts the same of what came."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from aiohttp import web

from prfaas.bench.asking import Asked
from prfaas.bench.endpoint import Endpoint
from prfaas.bench.outcomes import Outcome, Slo, Spread, summarise
from prfaas.testing.mock_http import MockServer

EVENTS = (
    b'data: {"choices": [{"text": " a"}]}\n\n',
    b": a comment\n\n",
    b'data: {"choices": [{"text": " b"}]}\n\n',
    b'data: {"choices": [], "usage": {"prompt_tokens": 41, "completion_tokens": 7}}\n\n',
    b"data: [DONE]\n\n",
)
NEUTRAL = {"repetition_penalty": 1.0, "logprobs": None}
"""What vLLM's client says and could leave out."""


def of_vllm(module: str) -> Any:
    """A module of vLLM's; the test is skipped where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("vllm")
        return importlib.import_module(module)


class Recorder(MockServer):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[dict[str, Any]] = []

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/completions", self._answer)]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(msgspec.json.decode(await request.read()))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in EVENTS:
            await response.write(event)
        return response


async def test_the_same_request_is_sent_and_the_same_read_of_its_answer() -> None:
    theirs = of_vllm("vllm.benchmarks.lib.endpoint_request_func")
    server, ids = Recorder(), [301, 302, 303]
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            told = await theirs.async_request_openai_completions(
                theirs.RequestFuncInput(
                    prompt=ids, api_url=f"{server.url}/v1/completions", prompt_len=3, output_len=7,
                    model="m", ignore_eos=True, extra_body={"temperature": 0.0},
                ),
                session,
            )  # fmt: skip
            endpoint = Endpoint(server.url, session, api_key=None, timeout_s=60.0)
            outcome = await endpoint.ask(Asked(0.0, ids, 3, 7), "m", "completions", 0.0)
    finally:
        await server.stop()
    vllms, ours = server.asked
    assert vllms == ours | NEUTRAL
    assert told.success
    assert outcome.completed
    assert (told.output_tokens, told.prompt_len) == (outcome.answered_tokens, outcome.prompt_tokens)
    assert len(told.itl) + 1 == len(outcome.tokens_at)


def outcomes() -> list[Outcome]:
    """Answers of several lengths, of which one failed."""
    random = np.random.default_rng(3)
    found = []
    for number in range(40):
        tokens = 1 + number % 5
        sent = float(number) * 0.3
        times = sent + 0.2 + np.cumsum(random.exponential(0.05, tokens))
        at = [float(time) for time in times]
        one = Outcome(
            due=sent, sent=sent, prompt_tokens=100 + number, asked_tokens=tokens, ended=at[-1],
            tokens_at=at, output_tokens=tokens + number % 2,
        )  # fmt: skip
        found.append(one)
    found[7].error = "HTTP 500"
    return found


def as_vllm_has_it(outcome: Outcome, kind: Any) -> Any:
    return kind(
        success=outcome.completed,
        start_time=outcome.sent,
        ttft=outcome.ttft_s,
        latency=outcome.latency_s,
        itl=[float(gap) for gap in np.diff(outcome.tokens_at)],
        prompt_len=outcome.prompt_tokens,
        output_tokens=outcome.answered_tokens,
    )


def test_the_same_words_mean_the_same() -> None:
    theirs = of_vllm("vllm.benchmarks.serve")
    every = outcomes()
    ours = summarise("m", every, Slo(ttft_s=0.25, tpot_s=0.05))
    told, _ = theirs.calculate_metrics(
        input_requests=[],
        outputs=[as_vllm_has_it(outcome, theirs.RequestFuncOutput) for outcome in every],
        dur_s=ours.duration_s,
        tokenizer=None,
        selected_percentiles=[50, 90, 95, 99],
        goodput_config_dict={"ttft": 250.0, "tpot": 50.0},
    )
    assert (told.completed, told.failed) == (ours.completed, 1)
    assert told.request_throughput == pytest.approx(ours.requests_per_s)
    assert told.output_throughput == pytest.approx(ours.output_tokens_per_s)
    assert told.request_goodput == pytest.approx(ours.goodput_req_per_s)
    assert 0 < ours.slo_share < 1
    for name, spread in (
        ("ttft", ours.ttft_s), ("tpot", ours.tpot_s), ("itl", ours.itl_s), ("e2el", ours.latency_s),
    ):  # fmt: skip
        assert isinstance(spread, Spread)
        assert getattr(told, f"mean_{name}_ms") == pytest.approx(1e3 * spread.mean)
        percentiles = [value for _, value in getattr(told, f"percentiles_{name}_ms")]
        mine = [spread.p50, spread.p90, spread.p95, spread.p99]
        assert percentiles == pytest.approx([1e3 * value for value in mine])
