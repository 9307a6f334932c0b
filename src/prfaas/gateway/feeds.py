"""How the gateway learns what each engine caches: through its agent, or from the engine itself."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from prfaas.core.addresses import endpoint_at, parse_url
from prfaas.core.deployment import Deployment
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.carried_events import CarriedFeed, KeyedFollower
from prfaas.gateway.endpoints import Endpoints
from prfaas.gateway.engine_client import EngineClient
from prfaas.gateway.pools import Pools
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keyed_prefixes import PLAINTEXT_KEY
from prfaas.index.prefix_index import PrefixIndex
from prfaas.kv_events.feed import KvEventFeed, feeds_context
from prfaas.kv_events.wire import Frame, Stopped
from prfaas.tls.cache_key import read_cache_key

logger = logging.getLogger(__name__)

Feed = KvEventFeed | CarriedFeed
_SEED_BYTES = 32


def cache_key(deployment: Deployment) -> bytes | None:
    """What agents make keys with; None where none of them has a secret. Raises ConfigError."""
    own = deployment.gateway.agent_tls
    if own is None or all(agent.tls is None for agent in deployment.agents):
        return None
    return read_cache_key(Path(own.cache_key_file))


def seed_of(key: bytes | None) -> bytes:
    """What the prefix index makes keys with: the deployment's cache key where agents make keys too,
    else what nobody else need know."""
    return key or os.urandom(_SEED_BYTES)


class Feeds:
    """Makes them.

    Args:
        engines, agents: clients by name.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        index: PrefixIndex,
        seed: bytes,
        engines: Callable[[], Mapping[str, EngineClient]],
        agents: Callable[[], Mapping[str, AgentClient]],
    ) -> None:
        self._endpoints, self._index, self._key_id = endpoints, index, key_id(seed)
        self._engines, self._agents = engines, agents
        self._turn = asyncio.Lock()
        self._context = feeds_context(len(endpoints.engines))

    def make(self, engine: str) -> Feed:
        """Of one engine."""
        index = self._index.engine(engine)
        if self._endpoints.engines[engine].events_at_agent:
            follower = KeyedFollower(index, self._key_id)
            return CarriedFeed(engine, follower, partial(self._carried, engine), self._turn)
        source: Callable[[], Awaitable[tuple[str, str | None]]] = partial(self._source, engine)
        return KvEventFeed(
            engine,
            index,
            source,
            self._context,
            feeds=len(self._endpoints.engines),
            turn=self._turn,
        )

    def rekey(self, key: bytes | None, feeds: Iterable[Feed], pools: Pools) -> None:
        """Go by this cache key (None: agents have none) from now on: of what is cached anywhere
        nothing is known until it is told under it. ``feeds``: all that were made; of none of them
        anything is applied any more before it has begun anew."""
        seed = seed_of(key)
        self._key_id = key_id(seed)
        self._index.rekey(seed)
        for feed in feeds:
            if isinstance(feed, CarriedFeed):
                feed.follower.rekey(self._key_id)
        pools.rekey(key or PLAINTEXT_KEY)
        logger.warning("another cache key is used: what is cached is learned anew")

    def close(self) -> None:
        """When none of them runs any more."""
        self._context.destroy(linger=0)

    def _carried(self, engine: str, stopped: Stopped) -> AsyncIterator[Frame]:
        agent = self._agents()[self._endpoints.engines[engine].agent]
        return agent.kv_events(engine, stopped)

    async def _source(self, name: str) -> tuple[str, str | None]:
        client, engine = self._engines()[name], self._endpoints.engines[name]
        events, replay = engine.kv_events, engine.kv_events_replay
        if events is None:
            events, replay = await client.kv_event_source()
        host = parse_url(engine.url).host
        return endpoint_at(events, host), replay and endpoint_at(replay, host)
