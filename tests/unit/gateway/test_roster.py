"""Clients of engines and agents that come and go."""

from __future__ import annotations

import asyncio

import zmq.asyncio

from prfaas.core.errors import EngineError
from prfaas.gateway.background import Background
from prfaas.gateway.endpoints import Endpoints, EngineEndpoint
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.roster import Roster
from prfaas.index.cache_events import BlocksStored
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.feed import KvEventFeed

STORED = BlocksStored(
    group=0,
    kind="full_attention",
    block_tokens=4,
    hashes=[1, 2],
    parent=None,
    token_ids=list(range(8)),
)


def endpoint(name: str) -> EngineEndpoint:
    return EngineEndpoint(
        name=name,
        cluster="west",
        machine="m",
        agent="a",
        role="decode",
        url="http://127.0.0.1:1",
        kv_events=None,
        kv_events_replay=None,
    )


async def nowhere() -> tuple[str, str | None]:
    raise EngineError("it says nothing of its events")


async def test_an_engine_that_leaves_gives_its_place_in_the_index_back() -> None:
    """Followed or not, with blocks or without: a hundred guests where there is room for five."""
    endpoints = Endpoints((), ())
    index = PrefixIndex(max_blocks=100, max_engines=5)
    http, context = HttpClient(), zmq.asyncio.Context()
    background = Background(lambda _kind: None)
    roster = Roster(
        endpoints,
        http,
        http,
        background,
        lambda name: KvEventFeed(name, index.engine(name), nowhere, context),
    )
    for number in range(100):
        guest = f"guest-{number}"
        endpoints.engines[guest] = endpoint(guest)
        roster.add_clients()
        if number % 2:
            roster.follow(guest)
            await asyncio.sleep(0)
        roster.feeds[guest].follower.index.stored(STORED)
        del endpoints.engines[guest]
        roster.forget_engine(guest)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert guest not in roster.engines
    while index.tidy():
        pass
    assert index.blocks == 0
    await background.close()
    await http.close()
    context.destroy(linger=0)
