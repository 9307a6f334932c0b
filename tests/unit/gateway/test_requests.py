"""The way of a request before the scheduler knows of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import expected_words

LONG = "a long prompt that is certainly longer than the threshold of forty tokens"
MIDDLE = "longer than one block"
COMPLETIONS = "/v1/completions"


def answer_to(prompt: str) -> str:
    return "".join(expected_words(list(prompt.encode())))


async def ask(client: aiohttp.ClientSession, **body: Any) -> tuple[aiohttp.ClientResponse, str]:
    """The response and its text: of its first choice, or as it is."""
    async with client.post(COMPLETIONS, json=body) as response:
        content = await response.text()
        return response, json.loads(content)["choices"][0]["text"] if response.ok else content


async def test_the_deadline_of_an_unstreamed_answer_grows_with_its_tokens_up_to_an_hour() -> None:
    mock = MockDeployment(deadline="20 s")
    async with mock.running() as client:
        await mock.ready()
        for tokens, extra_s in ((100, 100), (100_000, 3600)):
            await ask(client, prompt=LONG, max_tokens=tokens)
            prefill = mock.engines["e1"].bodies(COMPLETIONS)[-1]
            deadline_s = prefill["kv_transfer_params"]["deadline_s"]
            assert extra_s < deadline_s <= extra_s + 20


async def test_more_than_may_be_in_flight_are_told_to_come_back() -> None:
    mock = MockDeployment(inflight=2)
    async with mock.running() as client:
        await mock.ready()
        mock.engines["e1"].prefill_gate.clear()
        asked = [asyncio.create_task(ask(client, prompt=LONG)) for _ in range(2)]
        await until(lambda: len(mock.engines["e1"].requests) == 2)
        response, _ = await ask(client, prompt=LONG)
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        (everybody,) = mock.gateway.access.tenants
        everybody.takes_s = 40.0
        response, _ = await ask(client, prompt=LONG)
        assert (response.status, response.headers["Retry-After"]) == (429, "20")
        mock.engines["e1"].prefill_gate.set()
        assert [text for _, text in await asyncio.gather(*asked)] == [answer_to(LONG)] * 2
