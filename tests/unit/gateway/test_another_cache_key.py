"""The cache key is exchanged: a gateway forgets, and learns under the new one what it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import cast

import pytest
import zmq.asyncio
from tests.unit.gateway.test_pools import BLOCK, HOLDER, KEY, TOKENS, match, pools, stored
from tests.unit.gateway.test_roster import STORED, endpoint, nowhere

from prfaas.core.cache_news import Alive as AliveNews
from prfaas.core.cache_news import CacheNews, KeyedWith
from prfaas.gateway import carried_events
from prfaas.gateway import pools as pool_module
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.background import Background
from prfaas.gateway.carried_events import CarriedFeed, KeyedFollower
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.pools import watch_cache
from prfaas.gateway.roster import Roster
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.index.keys import KnownTokens
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.feed import FeedState, KvEventFeed
from prfaas.kv_events.wire import Alive, Begun, Frame, Reached, Stopped
from prfaas.testing.mock_deployment import until

OTHER = b"another cache key"


def test_what_was_told_under_the_other_key_is_forgotten() -> None:
    found = pools(stored("x", 20))
    assert match(found) == 20
    found.rekey(OTHER)
    assert match(found) == 0
    assert found.entries() == {"west": 0}
    whole = {"salt": None, "adapter": None}
    assert found.whole(KnownTokens(TOKENS), **whole) == {}
    assert found.path(HOLDER, KnownTokens(TOKENS), from_token=0, to_token=BLOCK, **whole) == []
    found.take("west", KeyedWith(key_id(OTHER)))
    found.take("west", stored("x", 20, keyed=KeyedPrefixes(OTHER)))
    assert match(found) == 20


class _Agent:
    """Tells what it has under a key, and then that it lives, until it is exchanged."""

    name = "west"

    def __init__(self) -> None:
        self.key = KEY
        self.streams = 0

    async def cache_news(self) -> AsyncIterator[CacheNews]:
        self.streams += 1
        key = self.key
        yield KeyedWith(key_id(key))
        yield stored("x", 20, keyed=KeyedPrefixes(key))
        while self.key == key:
            yield AliveNews()
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("first", ["agent", "gateway"])
async def test_whoever_is_first_it_is_known_again_when_both_have_it(
    first: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "_RETRY_S", 0.001)
    found, agent = pools(), _Agent()
    watching = asyncio.create_task(watch_cache(cast(AgentClient, agent), found))
    await until(lambda: match(found) == 20)
    for who in (first, {"agent": "gateway", "gateway": "agent"}[first]):
        began = agent.streams
        if who == "agent":
            agent.key = OTHER
        else:
            found.rekey(OTHER)
        await until(lambda began=began: agent.streams > began)  # type: ignore[misc]
        await asyncio.sleep(0.01)
        if who == first:
            assert match(found) == 0
    await until(lambda: match(found) == 20)
    lines = [r for r in caplog.records if "has another cache key" in r.getMessage()]
    assert len(lines) == 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_while_an_agent_has_another_key_that_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is asked meanwhile."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(carried_events, "_RETRY_S", 0.001)
    monkeypatch.setattr(carried_events, "_ANEW_S", 0.0)
    index, asked, theirs = PrefixIndex(max_blocks=100, max_engines=4), 0, "theirs"

    async def follow(_stopped: Stopped) -> AsyncIterator[Frame]:
        nonlocal asked
        asked += 1
        yield Alive(True)
        yield Begun("a", theirs)
        yield Reached(0)
        await asyncio.Event().wait()

    follower = KeyedFollower(index.engine("e"), "ours")
    feed = CarriedFeed("e", follower, follow, asyncio.Lock())
    running = asyncio.create_task(feed.run())
    await until(lambda: asked > 5)
    assert feed.state is FeedState.SILENT
    assert len([r for r in caplog.records if "has another cache key" in r.getMessage()]) == 1
    assert "following its cache" not in caplog.text
    theirs = "ours"
    await until(lambda: feed.state is FeedState.LIVE)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_feeds_begin_anew_one_after_the_other() -> None:
    endpoints, index = Endpoints((), ()), PrefixIndex(max_blocks=100, max_engines=5)
    http, context = HttpClient(), zmq.asyncio.Context()
    background, running = Background(lambda _kind: None), 0

    class Feed(KvEventFeed):
        async def run(self) -> None:
            nonlocal running
            running += 1
            assert running == 1
            assert self.follower.index.blocks == 0  # type: ignore[attr-defined]
            self.follower.index.stored(STORED)
            try:
                await super().run()
            finally:
                running -= 1

    roster = Roster(
        endpoints, http, http, background,
        lambda name: Feed(name, index.engine(name), nowhere, context),
    )  # fmt: skip
    endpoints.engines["d"] = endpoint("d")
    endpoints.engines["not-followed"] = endpoint("not-followed")
    roster.add_clients()
    roster.follow("d")
    for _ in range(3):
        held = roster.feeds["d"].follower.index
        await until(lambda held=held: held.blocks == 2)  # type: ignore[misc]
        before = roster._following["d"]
        roster.follow_anew()
        index.rekey(b"another")
        assert roster._following.keys() == {"d"}
        await until(lambda before=before: before.done())  # type: ignore[misc]
        await until(lambda: running == 1)
    roster.unfollow("d")
    await until(lambda: running == 0)
    await background.close()
    await http.close()
    context.destroy(linger=0)
