"""Death, delay and departure, one at a time, in the middle of a request."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import MockEngine, expected_words

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
SHORT = "abc"
COMPLETIONS = "/v1/completions"


def answer_to(prompt: str) -> str:
    return "".join(expected_words(list(prompt.encode())))


async def ask(
    client: aiohttp.ClientSession, *, stream: bool = False
) -> tuple[aiohttp.ClientResponse, bytes]:
    body = {"prompt": LONG, "stream": stream}
    async with client.post(COMPLETIONS, json=body) as response:
        return response, await response.read()


def text_of(content: bytes) -> str:
    return str(json.loads(content)["choices"][0]["text"])


def decoding(mock: MockDeployment) -> MockEngine | None:
    """The decode engine that has been given the request."""
    return next((mock.engines[n] for n in ("d1", "d2") if mock.engines[n].requests), None)


async def test_prefill_engine_dies_while_it_computes() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].prefill_gate.clear()
        asked = asyncio.create_task(ask(client))
        await until(lambda: bool(mock.engines["e1"].requests))
        await mock.engines["e1"].stop()
        response, content = await asked
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith('pd-p; reason="e1: ')
        assert response.headers["x-prfaas-attempts"] == "2"
        west, east = mock.agents["west-agent"], mock.agents["east-agent"]
        await until(lambda: len(set(west.dropped)) == 2 and len(east.dropped) == 1)


async def test_export_refused_and_transfer_failed_end_in_a_local_prefill() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].refuse_exports = "no step ends at the boundary"
        response, content = await ask(client)
        assert text_of(content) == answer_to(LONG)
        assert "no step ends at the boundary" in response.headers["x-prfaas-route"]
        mock.engines["e1"].refuse_exports = None
        mock.engines["e1"].prefill_gate.clear()
        asked = asyncio.create_task(ask(client))
        west = mock.agents["west-agent"]
        await until(lambda: any(t["state"] == "receiving" for t in west.transfers.values()))
        (cut,) = [i for i, t in west.transfers.items() if t["state"] == "receiving"]
        await west.receive(cut, total=10, stored=5, state="failed")
        response, content = await asked
        assert text_of(content) == answer_to(LONG)
        assert "checksum mismatch" in response.headers["x-prfaas-route"]
        await until(lambda: len(mock.engines["e1"].cancelled) == 1)


async def test_receiving_agent_dies_and_the_decode_engine_answers_alone() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].prefill_gate.clear()
        asked = asyncio.create_task(ask(client))
        await until(lambda: bool(mock.engines["e1"].requests))
        await mock.agents["west-agent"].stop()
        response, content = await asked
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith("direct; ")


async def test_decode_engine_dies_before_its_first_token() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.clear()
        asked = asyncio.create_task(ask(client, stream=True))
        await until(lambda: decoding(mock) is not None)
        victim = decoding(mock)
        assert victim is not None
        await victim.stop()
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.set()
        response, content = await asked
        assert content.endswith(b"data: [DONE]\n\n")
        assert response.headers["x-prfaas-decode-engine"] != victim.name
        assert response.headers["x-prfaas-attempts"] == "2"
        # The transfer lies with the agent: nothing was prefilled twice.
        assert len(mock.engines["e1"].requests) == 1
        assert mock.engines[response.headers["x-prfaas-decode-engine"]].recomputed == 0


@pytest.mark.parametrize("how", ["status", "event"])
async def test_engine_errors_before_the_first_token_are_retried(how: str) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        if how == "status":
            mock.engines["d1"].fail_with_status = 500
        else:
            mock.engines["d1"].script = [b'data: {"error":{"message":"EngineCore died"}}\n\n']
        response, content = await ask(client, stream=True)
        assert content.endswith(b"data: [DONE]\n\n")
        assert b"error" not in content
        assert response.headers["x-prfaas-decode-engine"] == "d2"


async def test_decode_engine_dies_in_the_middle_of_its_answer() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for name in ("d1", "d2"):
            mock.engines[name].middle_gate.clear()
        body = {"prompt": LONG, "stream": True}
        async with client.post(COMPLETIONS, json=body) as response:
            await response.content.readuntil(b"\n\n")
            victim = decoding(mock)
            assert victim is not None
            await victim.stop()
            content = await response.read()
        last = content.strip().split(b"\n\n")[-1]
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["code"] == 502
        assert "broke off" in error["message"]


async def test_requests_are_answered_and_ready_says_so_where_the_pd_agent_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prfaas.gateway.fleet._AGENT_POLL_S", 0.01)
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        await mock.agents["west-agent"].stop()
        await until(lambda: not mock.gateway.fleet.layouts.any_decodes())
        _, content = await ask(client)
        assert text_of(content) == answer_to(LONG)
        async with client.get("/ready") as ready:
            assert ready.status == 200


@pytest.mark.parametrize("hold", ["prefill", "first token", "middle"])
async def test_client_disconnect_cancels_everywhere(hold: str) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        gates = {
            "prefill": [mock.engines["e1"].prefill_gate],
            "first token": [mock.engines[n].first_token_gate for n in ("d1", "d2")],
            "middle": [mock.engines[n].middle_gate for n in ("d1", "d2")],
        }[hold]
        for gate in gates:
            gate.clear()
        asked = asyncio.create_task(ask(client, stream=True))
        if hold == "prefill":
            await until(lambda: bool(mock.engines["e1"].requests))
        else:
            await until(lambda: decoding(mock) is not None)
        asked.cancel()
        engine = mock.engines["e1"] if hold == "prefill" else decoding(mock)
        assert engine is not None
        await until(lambda: len(engine.cancelled) == 1)
        (transfer_id,) = mock.agents["west-agent"].transfers
        await until(lambda: transfer_id in mock.agents["west-agent"].dropped)
        if hold == "prefill":
            await until(lambda: transfer_id in mock.agents["east-agent"].dropped)
        metrics = await (await client.get("/metrics")).text()
        assert "prfaas_gateway_inflight_requests 0.0" in metrics


async def test_deadline_ends_a_streamed_request() -> None:
    mock = MockDeployment(deadline="300 ms")
    async with mock.running() as client:
        await mock.ready()
        for name in ("d1", "d2"):
            mock.engines[name].first_token_gate.clear()
        response, content = await ask(client, stream=True)
        assert response.status == 504
        assert "deadline passed" in json.loads(content)["error"]["message"]
        await until(lambda: any(mock.engines[n].cancelled for n in ("d1", "d2")))


async def test_prefill_engine_answers_where_every_decode_engine_dies() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].prefill_gate.clear()
        asked = asyncio.create_task(ask(client))
        await until(lambda: bool(mock.engines["e1"].requests))
        await stop(mock, "d1", "d2")
        response, content = await asked
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith("direct")
        assert "p1 stands in" in response.headers["x-prfaas-route"]
        async with client.get("/ready") as ready:
            assert ready.status == 200


async def stop(mock: MockDeployment, *names: str) -> None:
    for name in names:
        await mock.engines[name].stop()
        mock.gateway.fleet.suspect(name)
    await until(lambda: not mock.gateway.fleet.up & set(names))


async def test_no_engine_to_answer_is_an_error_and_its_return_is_seen() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        await stop(mock, "p1", "d1", "d2")
        async with client.get("/ready") as response:
            assert response.status == 503
            assert any("d1 is down" in t for t in (await response.json())["troubles"])
        response, content = await ask(client)
        assert response.status == 503
        await mock.engines["d1"].start()
        await until(lambda: "d1" in mock.gateway.fleet.up)
        response, content = await ask(client)
        assert text_of(content) == answer_to(LONG)


async def test_a_slow_transfer_is_not_a_stalled_one() -> None:
    mock = MockDeployment(transfer_stall="2 s")
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].exports_complete = False
        asked = asyncio.create_task(ask(client))
        west = mock.agents["west-agent"]
        await until(lambda: bool(west.transfers))
        (transfer_id,) = west.transfers
        # Longer in all than the 2 s after which a transfer counts as stalled.
        for stored in range(14, 99, 14):
            await west.receive(transfer_id, total=100, stored=stored, state="receiving")
            await asyncio.sleep(0.3)
        await west.receive(transfer_id, total=100, stored=100, state="complete")
        response, content = await asked
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-attempts"] == "1"


async def test_a_stalled_transfer_ends_in_a_local_prefill() -> None:
    mock = MockDeployment(transfer_stall="400 ms")
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].exports_complete = False
        response, content = await ask(client)
        assert text_of(content) == answer_to(LONG)
        assert response.headers["x-prfaas-route"] == 'pd-p; reason="the transfer stalled"'


async def test_an_exact_hand_off_prefills_the_prompt_without_its_last_token() -> None:
    """Blocks of 2,048 tokens: there is no block's end to hand over at."""
    mock, prompt = MockDeployment(block_tokens=2048), "x" * 1500
    async with mock.running() as client:
        await mock.ready()
        async with client.post(COMPLETIONS, json={"prompt": prompt}) as response:
            assert text_of(await response.read()) == answer_to(prompt)
            assert response.headers["x-prfaas-route"].startswith("offload")
    ((_, prefill, _),) = mock.engines["e1"].requests
    engine = decoding(mock)
    assert engine is not None
    ((_, decode, _),) = engine.requests
    assert (len(prefill["prompt"]), len(decode["prompt"])) == (1499, 1500)
    for body in (prefill, decode):
        assert body["kv_transfer_params"]["to_token"] == 1499
