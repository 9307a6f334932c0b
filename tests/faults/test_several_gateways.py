"""Several gateways before the same engines: what they take together, and what one leaves behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import aiohttp

from prfaas.gateway.gateway import Gateway
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_engine import expected_words

SLOTS = 32
"""Of an engine."""
EACH = 80


async def ask(client: aiohttp.ClientSession, prompt: str) -> bool:
    """Whether the answer was right."""
    async with client.post("/v1/completions", json={"prompt": prompt}) as response:
        assert response.status == 200, await response.text()
        text = (await response.json())["choices"][0]["text"]
    return bool(text == "".join(expected_words(list(prompt.encode()))))


def know_each_other(gateways: list[Gateway]) -> bool:
    return all(len(gateway._session.gateways()) == len(gateways) for gateway in gateways)


async def test_three_gateways_at_full_load_keep_every_engine_within_its_slots() -> None:
    mock = MockDeployment(inflight=1000)
    decoders = [mock.engines["d1"], mock.engines["d2"]]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(mock.running())]
        gateways = [mock.gateway]
        for name in ("gateway-2", "gateway-3"):
            gateway, client = await stack.enter_async_context(mock.another_gateway(name))
            gateways.append(gateway)
            clients.append(client)
        await mock.ready()
        await until(lambda: all(g.fleet.up == mock.engines.keys() for g in gateways))
        await until(lambda: know_each_other(gateways))
        await until(
            lambda: (
                sum(g._driver.scheduler.sharing.use_of("d1").decode.may for g in gateways) == SLOTS
            )
        )
        for engine in decoders:
            engine.first_token_gate.clear()
        asked = [
            asyncio.create_task(ask(client, f"{i}")) for i in range(EACH) for client in clients
        ]
        # None of them has to be asked twice, and no place stays empty.
        await until(lambda: all(engine.under_way >= SLOTS for engine in decoders))
        for engine in decoders:
            engine.first_token_gate.set()
        assert all(await asyncio.gather(*asked))
        for engine in decoders:
            assert engine.most_under_way <= SLOTS + len(gateways)


async def test_one_gateway_gets_every_slot_while_the_others_have_nothing_to_do() -> None:
    mock = MockDeployment(inflight=1000)
    decoders = [mock.engines["d1"], mock.engines["d2"]]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(mock.running())
        other, _ = await stack.enter_async_context(mock.another_gateway("gateway-2"))
        await mock.ready()
        await until(lambda: know_each_other([mock.gateway, other]))
        for engine in decoders:
            engine.first_token_gate.clear()
        asked = [asyncio.create_task(ask(client, f"{i}")) for i in range(2 * SLOTS)]
        await until(lambda: all(engine.under_way >= SLOTS for engine in decoders))
        for engine in decoders:
            engine.first_token_gate.set()
        assert all(await asyncio.gather(*asked))
