"""Whole requests through a real gateway, over mock engines and agents."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from prfaas.index.cache_events import BlocksStored
from prfaas.testing.asking import answer_to
from prfaas.testing.mock_deployment import (
    BLOCK_TOKENS,
    MockDeployment,
    clear_line,
    journalled,
    until,
)
from prfaas.testing.mock_engine import KV_BYTES_PER_TOKEN, expected_words

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
MIDDLE = "longer than one block"
SHORT = "abc"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def said(answer: dict[str, Any]) -> str:
    """The text of an answer's or event's first choice."""
    (choice, *_) = answer["choices"]
    found: dict[str, str] = choice.get("message") or choice.get("delta") or choice
    return found["content"] if "content" in found else found["text"]


async def ask(
    client: aiohttp.ClientSession, path: str = COMPLETIONS, **body: Any
) -> tuple[aiohttp.ClientResponse, str]:
    """The response and the text of its first choice."""
    async with client.post(path, json=body) as response:
        if response.content_type != "text/event-stream":
            content = await response.json()
            return response, said(content) if response.ok else json.dumps(content)
        events = (await response.text()).split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        return response, "".join(said(json.loads(event[6:])) for event in events[:-2])


async def test_everything_over_ipv6() -> None:
    mock = MockDeployment(host="::1")
    async with mock.running() as client:
        await mock.ready()
        assert all(server.url.startswith("http://[::1]:") for server in mock.agents.values())
        assert all(server.url.startswith("http://[::1]:") for server in mock.engines.values())
        response, text = await ask(client, prompt=LONG)
        assert text == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith("offload; ")
        async with client.get("/ready") as ready:
            assert (ready.url.host, ready.status) == ("::1", 200)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_prompt_is_offloaded(stream: bool, tmp_path: Path) -> None:
    mock = MockDeployment(journal_file=tmp_path / "events.jsonl")
    async with mock.running() as client:
        await mock.ready()
        for decode in ("d1", "d2"):
            mock.engines[decode].first_token_gate.clear()
        asked = asyncio.create_task(ask(client, prompt=LONG, stream=stream, seed=7, stop=["x"]))
        await until(lambda: bool(mock.agents["east-agent"].polled))
        for decode in ("d1", "d2"):
            mock.engines[decode].first_token_gate.set()
        response, text = await asked
        assert text == answer_to(LONG)
        headers = response.headers
        reason = f"uncached {len(LONG)} > threshold 40"
        assert headers["x-prfaas-route"] == f'offload; reason="{reason}"'
        boundary = (len(LONG) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        assert headers["x-prfaas-kv-bytes"] == str(boundary * KV_BYTES_PER_TOKEN)
        assert headers["x-prfaas-kv-hidden"] == "0.5000"
        assert headers["x-prfaas-total-tokens"] == str(len(LONG))
        assert headers["x-prfaas-prefill-engine"] == "e1"
        (prefill,) = mock.engines["e1"].bodies(COMPLETIONS)
        transfer_id = prefill["kv_transfer_params"].pop("transfer_id")
        assert 0 < prefill["kv_transfer_params"].pop("deadline_s") <= 40
        context = {"request_id": headers["X-Request-Id"], "attempt": 1}
        assert prefill == {
            "prompt": list(LONG.encode()),
            "max_tokens": 1,
            "temperature": 0,
            "stream": False,
            "kv_transfer_params": {
                "prfaas": "export",
                "destination": "west-agent",
                "readers": ["d1", "d2"],
                "from_token": 0,
                "to_token": boundary,
                "priority": 0,
                "pool_tokens": 0,
                "context": context,
            },
        }
        decoder = mock.engines[headers["x-prfaas-decode-engine"]]
        (answered,) = decoder.bodies(COMPLETIONS)
        assert answered == {
            "prompt": list(LONG.encode()),
            "stream": stream,
            "seed": 7,
            "stop": ["x"],
            "kv_transfer_params": {
                "prfaas": "import",
                "transfer_id": transfer_id,
                "from_token": 0,
                "to_token": boundary,
                "pool_tokens": 0,
                "context": context,
            },
        }
        assert decoder.recomputed == 0
        await until(lambda: transfer_id in mock.agents["west-agent"].dropped)
    (trace,) = journalled(tmp_path / "events.jsonl")
    assert (trace.route, trace.outcome, trace.attempts) == ("offload", "ok", 1)
    assert trace.kv_bytes_hidden == trace.kv_bytes // 2
    stages = [trace.rendered_s, trace.prefill_started_s, trace.prefilled_s, trace.decode_started_s]
    times = [t for t in (*stages, trace.first_token_s, trace.completed_s) if t is not None]
    assert len(times) == 6
    assert times == sorted(times)


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_counts_what_was_cached_not_what_crossed(stream: bool) -> None:
    mock = MockDeployment()
    for engine in mock.engines.values():
        engine.tells_cached = True
    async with mock.running() as client:
        await mock.ready()
        for expected in (0, len(LONG)):
            async with client.post(COMPLETIONS, json={"prompt": LONG, "stream": stream}) as answer:
                assert answer.headers["x-prfaas-route"].startswith("offload; ")
                content = await answer.text()
            (said,) = re.findall(r'"cached_tokens": (\d+)', content)
            assert int(said) == expected


@pytest.mark.parametrize("count", [-1, 1 << 40, "all"])
async def test_a_count_that_is_none_ends_in_a_local_prefill(count: Any) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        exported = {"prfaas": "exported", "transfer_id": "t", "ok": True}
        said = {"kv_transfer_params": {**exported, "remote_prefill_cached_tokens": count}}
        mock.engines["e1"].garbage = json.dumps(said).encode()
        response, text = await ask(client, prompt=LONG)
        assert text == answer_to(LONG)
        assert response.headers["x-prfaas-route"].startswith("pd-p; ")


async def test_routes_by_length() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        middle, text = await ask(client, prompt=MIDDLE)
        assert text == answer_to(MIDDLE)
        assert middle.headers["x-prfaas-route"].startswith("pd-p; ")
        short, text = await ask(client, prompt=SHORT)
        assert text == answer_to(SHORT)
        assert short.headers["x-prfaas-route"].startswith("direct; ")
        assert len(mock.engines["p1"].requests) == 1
        assert not mock.engines["e1"].requests


async def test_chat_passes_ids_beside_untouched_messages() -> None:
    mock = MockDeployment()
    messages = [{"role": "user", "content": LONG, "extra": {"nested": [1.5, None]}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with mock.running() as client:
        await mock.ready()
        response, text = await ask(client, CHAT, messages=messages, tools=tools, stream=True)
        ids = list(f"<user>{LONG}".encode())
        assert text == "".join(expected_words(ids))
        assert response.headers["x-prfaas-route"].startswith("offload")
        (body,) = mock.engines[response.headers["x-prfaas-decode-engine"]].bodies(CHAT)
        assert body["messages"] == messages
        assert body["tools"] == tools
        assert body["kv_transfer_params"]["prompt_token_ids"] == ids
        await ask(client, CHAT, messages=[{"role": "user", "content": "x"}], max_tokens=3)


async def test_an_answer_that_is_not_streamed_needs_no_memory_once_it_is_loaded() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in ("d1", "d2"):
            mock.engines[engine].middle_gate.clear()
        east, west = mock.agents["east-agent"], mock.agents["west-agent"]
        asked = asyncio.ensure_future(ask(client, prompt=LONG))
        await until(lambda: len(west.dropped) == len(east.dropped) == 1)
        assert not asked.done()
        for engine in ("d1", "d2"):
            mock.engines[engine].middle_gate.set()
        response, text = await asked
        assert response.headers["x-prfaas-route"].startswith("offload")
        assert text


async def test_several_answers_keep_the_transfer_until_the_end() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for engine in ("d1", "d2"):
            mock.engines[engine].middle_gate.clear()
        async with client.post(COMPLETIONS, json={"prompt": LONG, "n": 2, "stream": True}) as got:
            await got.content.readany()
            assert not mock.agents["west-agent"].dropped
            for engine in ("d1", "d2"):
                mock.engines[engine].middle_gate.set()
            await got.read()
        await until(lambda: len(mock.agents["west-agent"].dropped) == 1)


async def test_the_line_going_down_keeps_prompts_in_the_pd_cluster() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.agents["east-agent"].links = [clear_line("west-agent", connections=0)]
        route = "offload"
        async with asyncio.timeout(60):
            # One that was on its way when the line went down says so.
            while route.startswith("offload") or "lost" in route:
                response, _ = await ask(client, prompt=LONG)
                route = response.headers["x-prfaas-route"]
        assert route == (
            f'pd-p; reason="uncached {len(LONG)} > threshold 40, no PrfaaS engine in reach"'
        )


async def test_sixty_four_at_once_all_complete() -> None:
    mock = MockDeployment()
    prompts = [f"{n} {LONG if n % 2 else MIDDLE}" for n in range(64)]
    async with mock.running() as client:
        await mock.ready()
        answers = await asyncio.gather(*(ask(client, prompt=p, stream=True) for p in prompts))
        assert [text for _, text in answers] == [answer_to(p) for p in prompts]


async def test_models_and_tokenize_come_from_an_engine() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        async with client.get("/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "mock-model"
        async with client.post("/tokenize", json={"prompt": "ab"}) as response:
            assert (await response.json())["tokens"] == [97, 98]


async def test_ids_that_are_no_tokens_are_refused() -> None:
    """Engines pass them on when they tokenise; where anything is cached they are looked at."""
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        mock.gateway.feed("d2").follower.index.stored(
            BlocksStored(
                group=0,
                kind="full_attention",
                block_tokens=BLOCK_TOKENS,
                hashes=[1],
                parent=None,
                token_ids=[1] * BLOCK_TOKENS,
            )
        )
        for token in (1 << 32, 10**400):
            async with client.post(COMPLETIONS, json={"prompt": [token] * 100}) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]["param"] == "prompt"
            async with client.post("/cache/query", json={"prompt": [token] * 100}) as answer:
                assert answer.status == 400


async def test_only_what_the_decode_engine_lacks_is_sent() -> None:
    mock = MockDeployment()
    ids = list(LONG.encode())
    half = 8 * BLOCK_TOKENS
    async with mock.running() as client:
        await mock.ready()
        mock.gateway.feed("d2").follower.index.stored(
            BlocksStored(
                group=0,
                kind="full_attention",
                block_tokens=BLOCK_TOKENS,
                hashes=list(range(8)),
                parent=None,
                token_ids=ids[:half],
            )
        )
        response, text = await ask(client, prompt=f"{LONG} and the rest of a second turn")
        assert text == answer_to(f"{LONG} and the rest of a second turn")
        assert response.headers["x-prfaas-cached-tokens"] == str(half)
        assert response.headers["x-prfaas-decode-engine"] == "d2"
        (prefill,) = mock.engines["e1"].bodies(COMPLETIONS)
        assert prefill["kv_transfer_params"]["from_token"] == half
        (decode,) = mock.engines["d2"].bodies(COMPLETIONS)
        assert decode["kv_transfer_params"]["from_token"] == half
        # Nearly all of it is there: what remains is below the threshold.
        response, _ = await ask(client, prompt=LONG[: half + 3])
        assert response.headers["x-prfaas-route"].startswith("direct; ")
        # What a drained engine has is nobody's.
        await client.post("/drain", json={"target": "d2"})
        response, _ = await ask(client, prompt=LONG)
        assert response.headers["x-prfaas-cached-tokens"] == "0"
        assert response.headers["x-prfaas-route"].startswith("offload; ")
        await client.post("/drain", json={"target": "d2", "undo": True})
        response, _ = await ask(client, prompt=LONG)
        assert response.headers["x-prfaas-cached-tokens"] == str(half)
        # Another tenant's salt shares nothing.
        response, _ = await ask(client, prompt=LONG, cache_salt="other")
        assert response.headers["x-prfaas-cached-tokens"] == "0"
        # Nor does an adapter, loaded just now.
        for engine in mock.engines.values():
            engine.adapters.append("tuned")
        response, _ = await ask(client, prompt=LONG, model="tuned")
        assert response.headers["x-prfaas-cached-tokens"] == "0"
        metrics = await (await client.get("/metrics")).text()
        assert 'prfaas_gateway_index_blocks{engine="d2"} 8.0' in metrics
        assert 'prfaas_gateway_kv_events_live{engine="d2"} 0.0' in metrics
