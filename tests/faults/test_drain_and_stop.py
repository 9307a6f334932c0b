"""Engines leave and gateways end without hurting a request: drain, and what SIGTERM does."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas.testing.asking import COMPLETIONS, SHORT, answer_to, ask, text_of
from prfaas.testing.gateway_process import gateway_process, is_ready
from prfaas.testing.mock_deployment import MockDeployment, until

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
DONE = b"data: [DONE]\n\n"


async def order(
    client: aiohttp.ClientSession, target: str, *, undo: bool = False, key: str = ""
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"target": target, "undo": undo}
    async with client.post("/drain", json=body, headers=headers) as response:
        return response.status, await response.json()


@asynccontextmanager
async def begun(
    mock: MockDeployment, client: aiohttp.ClientSession
) -> AsyncIterator[tuple[aiohttp.ClientResponse, bytes]]:
    """An answer whose first event is here; the rest waits for a ``middle_gate``."""
    await mock.ready()
    for name in ("d1", "d2"):
        mock.engines[name].middle_gate.clear()
    async with client.post(COMPLETIONS, json={"prompt": SHORT, "stream": True}) as response:
        yield response, await response.content.readuntil(b"\n\n")


async def test_an_engine_is_drained_while_it_answers_and_comes_back() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        async with begun(mock, client) as (response, first):
            leaving = next(n for n in ("d1", "d2") if mock.engines[n].requests)
            staying = {"d1": "d2", "d2": "d1"}[leaving]
            status, report = await order(client, leaving)
            (drain,) = report["drains"]
            assert (status, drain["engine"], drain["requests"]) == (200, leaving, 1)
            assert (drain["machine"], drain["cluster"]) == ("west", "west")
            mock.engines[staying].middle_gate.set()
            for prompt in (SHORT, LONG) * 3:
                answer, content = await ask(client, prompt)
                assert text_of(content) == answer_to(prompt)
                assert answer.headers["x-prfaas-decode-engine"] == staying
            metrics = await (await client.get("/metrics")).text()
            assert f'prfaas_gateway_engine_draining{{engine="{leaving}"}} 1.0' in metrics
            mock.engines[leaving].middle_gate.set()
            assert (first + await response.read()).endswith(DONE)
        await until(lambda: mock.gateway.drains.rows()[0].empty)
        assert (await client.get("/ready")).status == 200
        _, report = await order(client, "west", undo=True)
        assert report["undone"] == [leaving]
        mock.engines[staying].full_for_s = 5
        answer, _ = await ask(client)
        assert answer.headers["x-prfaas-decode-engine"] == leaving


async def test_a_drained_cluster_gets_no_prompts_and_a_gateway_without_any_says_so() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        await order(client, "east")
        for _ in range(3):
            answer, content = await ask(client, LONG)
            assert text_of(content) == answer_to(LONG)
            assert answer.headers["x-prfaas-route"].startswith("pd-p")
        assert not mock.engines["e1"].requests
        await order(client, "west")
        ready = await client.get("/ready")
        assert ready.status == 503
        assert (await ready.json())["troubles"] == ["every engine that could answer is drained"]
        waiting = asyncio.create_task(ask(client))
        await until(lambda: mock.gateway.requests.inflight == 1)
        await order(client, "d2", undo=True)
        answer, _ = await waiting
        assert answer.headers["x-prfaas-decode-engine"] == "d2"


async def test_only_operators_drain() -> None:
    mock = MockDeployment(keys='["client"]')
    async with mock.running() as client:
        await mock.ready()
        status, answer = await order(client, "d1", key="client")
        assert (status, answer["error"]["type"]) == (403, "permission_error")
        assert "set gateway.operator_keys" in answer["error"]["message"]
        mock.gateway.access.operators.replace(["boss"])
        assert (await order(client, "d1", key="client"))[0] == 401
        assert (await order(client, "d1", key="boss"))[0] == 200
        status, answer = await order(client, "d9", key="boss")
        assert status == 404
        assert "no engine, machine or cluster 'd9'; known: east, west, e1" in str(answer)


async def test_a_gateway_that_stops_lets_answers_end_and_takes_no_more() -> None:
    mock = MockDeployment()
    async with mock.running() as client, begun(mock, client) as (response, first):
        stopping = asyncio.create_task(mock.gateway.stop_serving(asyncio.Event()))
        await until(lambda: mock.gateway.stopping)
        ready = await client.get("/ready")
        assert (ready.status, (await ready.json())["troubles"]) == (
            503,
            ["the gateway is stopping"],
        )
        refused, content = await ask(client)
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert b"the gateway is stopping" in content
        assert not stopping.done()
        for name in ("d1", "d2"):
            mock.engines[name].middle_gate.set()
        assert (first + await response.read()).endswith(DONE)
        await stopping


async def test_what_a_gateway_cuts_off_ends_with_an_error() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for name in ("d1", "d2"):
            mock.engines[name].middle_gate.clear()
        async with client.post(COMPLETIONS, json={"prompt": LONG, "stream": True}) as response:
            await response.content.readuntil(b"\n\n")
            whole = asyncio.create_task(ask(client))
            await until(lambda: sum(len(mock.engines[n].requests) for n in ("d1", "d2")) == 2)
            hurry = asyncio.Event()
            hurry.set()
            await mock.gateway.stop_serving(hurry)
            *_, event, nothing = (await response.read()).split(b"\n\n")
            assert nothing == b""
            error = json.loads(event.removeprefix(b"data: "))["error"]
            assert (error["code"], error["type"]) == (503, "service_unavailable_error")
            assert error["message"] == "the gateway ended before the answer did"
        answer, content = await whole
        assert (answer.status, json.loads(content)["error"]["code"]) == (503, 503)
        await until(lambda: sum(len(mock.engines[n].cancelled) for n in ("d1", "d2")) == 2)
        agents = [mock.agents[name] for name in ("east-agent", "west-agent")]
        await until(lambda: all(agent.dropped for agent in agents))


@pytest.mark.slow
async def test_a_gateway_process_outlives_a_hang_up_and_ends_in_order(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running(), gateway_process(mock, tmp_path) as running:
        for name in ("d1", "d2"):
            mock.engines[name].middle_gate.clear()
        body = {"prompt": SHORT, "stream": True}
        async with running.client.post(COMPLETIONS, json=body) as response:
            first = await response.content.readuntil(b"\n\n")
            running.process.send_signal(signal.SIGHUP)
            running.process.send_signal(signal.SIGTERM)
            await running.logged("stopping, 1 requests are under way")
            assert not await is_ready(running.client)
            for name in ("d1", "d2"):
                mock.engines[name].middle_gate.set()
            assert (first + await response.read()).endswith(DONE)
        assert await running.process.wait() == 0


@pytest.mark.slow
async def test_a_second_signal_cuts_answers_off(tmp_path: Path) -> None:
    mock = MockDeployment()
    async with mock.running(), gateway_process(mock, tmp_path, drain="1 h") as running:
        for name in ("d1", "d2"):
            mock.engines[name].middle_gate.clear()
        body = {"prompt": SHORT, "stream": True}
        async with running.client.post(COMPLETIONS, json=body) as response:
            await response.content.readuntil(b"\n\n")
            running.process.send_signal(signal.SIGTERM)
            await running.logged("stopping, 1 requests are under way")
            running.process.send_signal(signal.SIGTERM)
            assert b"the gateway ended before the answer did" in await response.read()
        assert await running.process.wait() == 0
