"""What cannot be served in time is refused at once, and says when to come back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import EngineError
from prfaas.gateway.engine_client import EngineClient
from prfaas.testing.asking import ask
from prfaas.testing.mock_deployment import BLOCK_TOKENS, MockDeployment, mock_layout, until


def become(mock: MockDeployment, *changes: tuple[str, str]) -> None:
    text = mock.deployment_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    mock.gateway.become(parse_deployment(text, source="new"), source="new")


COMPLETIONS = "/v1/completions"
ONE_SLOT = ("role: decode,", "role: decode, max_num_seqs: 1,")


def gated(mock: MockDeployment) -> list[asyncio.Event]:
    gates = [mock.engines[name].middle_gate for name in ("d1", "d2")]
    for gate in gates:
        gate.clear()
    return gates


def begun(mock: MockDeployment) -> int:
    return sum(len(mock.engines[name].requests) for name in ("d1", "d2"))


async def test_what_would_wait_past_its_deadline_is_refused_with_the_time_to_come_back() -> None:
    mock = MockDeployment(deadline="60 s")
    async with mock.running() as client:
        await mock.ready()
        become(mock, ONE_SLOT)
        queues = mock.gateway._driver.scheduler._requests.queues.of_all
        gates = gated(mock)
        asked = [asyncio.create_task(ask(client, stream=True)) for _ in range(3)]
        await until(lambda: queues.sequences == 1)
        # A slot came free every 40 s, as far as was seen.
        queues._seen, queues._freed, queues._waited_s = 20, 20.0, 800.0
        response, content = await ask(client, stream=True)
        assert response.status == 429
        error = json.loads(content)["error"]
        assert error["type"] == "rate_limit_error"
        assert "it would wait 80 s for a place" in error["message"]
        assert int(response.headers["Retry-After"]) in (20, 21)
        for gate in gates:
            gate.set()
        assert [r.status for r, _ in await asyncio.gather(*asked)] == [200] * 3
        assert (await ask(client, stream=True))[0].status == 200


async def test_waiting_is_bounded_in_seconds_and_tokens() -> None:
    mock = MockDeployment(deadline="1000 s")
    async with mock.running() as client:
        await mock.ready()
        become(mock, ONE_SLOT, ("gateway:\n", "gateway:\n  max_wait: 10 s\n"))
        queues = mock.gateway._driver.scheduler._requests.queues.of_all
        gates = gated(mock)
        asked = [asyncio.create_task(ask(client, stream=True)) for _ in range(3)]
        await until(lambda: queues.sequences == 1)
        queues._seen, queues._freed, queues._waited_s = 20, 20.0, 800.0
        response, _ = await ask(client, stream=True)
        assert (response.status, response.headers["Retry-After"]) == (429, "70")
        queues._waited_s = 0.0
        become(mock, ONE_SLOT, ("gateway:\n", "gateway:\n  max_waiting_tokens: 7\n"))
        asked.append(asyncio.create_task(ask(client, "abcd", stream=True)))
        await until(lambda: queues.sequences == 2)
        response, content = await ask(client, stream=True)
        assert response.status == 429
        assert b"7 prompt tokens wait, and at most 7 may" in content
        for gate in gates:
            gate.set()
        assert [r.status for r, _ in await asyncio.gather(*asked)] == [200] * 4


async def test_what_is_refused_has_used_no_tokens_of_its_tenants() -> None:
    limited = "{name: acme, api_keys: [acme-key], tokens_per_min: 1000}"
    mock = MockDeployment(deadline="1000 s", gateway=f"\n  tenants: [{limited}]\n")
    async with mock.running() as client:
        await mock.ready()
        become(mock, ONE_SLOT, ("gateway:\n", "gateway:\n  max_waiting_tokens: 7\n"))
        queues = mock.gateway._driver.scheduler._requests.queues.of_all
        gates = gated(mock)
        asked = [
            asyncio.create_task(ask(client, "abcd", "acme-key", stream=True)) for _ in range(3)
        ]
        await until(lambda: queues.sequences == 1)
        for _ in range(5):
            response, content = await ask(client, "a" * 400, "acme-key", stream=True)
            assert (response.status, b"prompt tokens wait" in content) == (429, True)
        for gate in gates:
            gate.set()
        assert [r.status for r, _ in await asyncio.gather(*asked)] == [200] * 3
        assert (await ask(client, "a" * 400, "acme-key", stream=True))[0].status == 200


@pytest.mark.parametrize(
    ("path", "more", "ails", "status"),
    [
        ("/v1/embeddings", {}, {}, 404),
        ("/v1/embeddings", {}, {"health_status": 500}, 503),
        ("/v1/embeddings", {}, {"embeds": True, "fail_with_status": 400}, 400),
        (COMPLETIONS, {"echo": True}, {"fail_with_status": 400}, 400),
        (COMPLETIONS, {"echo": True, "stream": True}, {"fail_with_status": 400}, 400),
        (COMPLETIONS, {"n": 2}, {"full_for_s": 7}, 429),
        (COMPLETIONS, {"echo": True}, {"health_status": 500}, 503),
    ],
    ids=str,
)
async def test_nor_has_what_is_refused_once_its_tokens_were_taken(
    path: str, more: dict[str, Any], ails: dict[str, Any], status: int
) -> None:
    limited = "{name: acme, api_keys: [acme-key], tokens_per_min: 600}"
    mock = MockDeployment(gateway=f"\n  tenants: [{limited}]\n")
    key = {"Authorization": "Bearer acme-key"}
    for engine in mock.engines.values():
        engine.embeds = "embeds" in ails
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            for name, value in ails.items():
                setattr(engine, name, value)
        if "health_status" in ails:
            await until(lambda: not mock.gateway.fleet.up)
        body = {"prompt" if path == COMPLETIONS else "input": "a" * 4000, **more}
        for _ in range(3):
            async with client.post(path, json=body, headers=key) as response:
                assert response.status == status, await response.text()


@pytest.mark.parametrize(("fails", "status"), [(False, 500), (True, 503)])
async def test_what_engines_have_tried_has_used_tokens(
    fails: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who has answers made for which there is no room would pay for none of them."""
    limited = "{name: acme, api_keys: [acme-key], tokens_per_min: 600}"
    mock = MockDeployment(gateway=f"\n  tenants: [{limited}]\n")
    for engine in mock.engines.values():
        engine.embeds, engine.fail_with_status = True, 500

    async def breaks(_engine: EngineClient, _method: str, path: str, *_: Any, **__: Any) -> None:
        raise EngineError(f"{path}: larger than there is room for")

    key = {"Authorization": "Bearer acme-key"}
    async with mock.running() as client:
        await mock.ready()
        if fails:
            monkeypatch.setattr(EngineClient, "pass_on", breaks)
        for expected in (status, 429):
            body = {"input": "a" * 4000}
            async with client.post("/v1/embeddings", json=body, headers=key) as response:
                assert response.status == expected, await response.text()


async def test_a_prompt_that_was_prefilled_before_it_was_refused_has_used_its_tokens() -> None:
    limited = "{name: acme, api_keys: [acme-key], tokens_per_min: 600}"
    mock = MockDeployment(gateway=f"\n  tenants: [{limited}]\n")
    async with mock.running() as client:
        await mock.ready()
        for name in ("d1", "d2"):
            mock.engines[name].fail_with_status = 400  # As of a grammar: they alone are told.
        told = [(await ask(client, letter * 400, "acme-key"))[0].status for letter in "abc"]
    assert told == [400, 429, 429]
    assert len(mock.engines["e1"].bodies(COMPLETIONS)) == 1


async def test_answers_count_not_bodies() -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        become(mock, ("role: decode,", "role: decode, max_num_seqs: 8,"))
        gates = gated(mock)
        asked = [asyncio.create_task(ask(client, n=8)) for _ in range(2)]
        await until(lambda: begun(mock) == 2)
        assert {len(mock.engines[name].requests) for name in ("d1", "d2")} == {1}
        batch = asyncio.create_task(ask(client, ["a", "b", "c"], n=2))
        await until(lambda: mock.gateway._driver.scheduler._requests.queues.of_all.sequences == 6)
        assert begun(mock) == 2
        for gate in gates:
            gate.set()
        assert [r.status for r, _ in await asyncio.gather(*asked, batch)] == [200] * 3


LONG = "a long prompt that is certainly longer than the threshold of forty tokens"


async def test_no_prefill_starts_whose_kv_cache_has_no_place_to_arrive() -> None:
    mock = MockDeployment()
    one = mock_layout().handoff_bytes(0, len(LONG) // BLOCK_TOKENS * BLOCK_TOKENS)
    memory = {"total_bytes": int(1.5 * one), "reserved_bytes": 0, "slot_bytes": 1}
    mock.agents["west-agent"].memory = memory
    async with mock.running() as client:
        await mock.ready()
        memories = mock.gateway._driver.scheduler._memories
        await until(lambda: "west" in memories._by_machine)
        e1 = mock.engines["e1"]
        for engine in mock.engines.values():
            engine.first_token_gate.clear()
        asked = [asyncio.create_task(ask(client, LONG, stream=True)) for _ in range(3)]
        await until(lambda: begun(mock) == 1)
        await until(lambda: len(memories._by_machine["west"].line) == 2)
        assert len(e1.requests) == 1
        for engine in mock.engines.values():
            engine.first_token_gate.set()
        assert [r.status for r, _ in await asyncio.gather(*asked)] == [200] * 3
        assert len(e1.requests) == 3
        assert memories._by_machine["west"].booked == 0
        # One that can never fit is answered without a hand-off.
        memory |= {"total_bytes": one // 2}
        await until(lambda: memories._by_machine["west"].total == one // 2)
        response, _ = await ask(client, LONG)
        assert response.headers["x-prfaas-route"].startswith("direct")
        assert "larger than the memory of west" in response.headers["x-prfaas-route"]
