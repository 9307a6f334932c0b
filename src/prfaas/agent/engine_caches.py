"""Follows the KV events of the machine's engines, and keeps what gateways are told of them.

Events name every prompt's tokens and salts. They end here: gateways get names and keys
(`index.keyed_blocks`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec

from prfaas.core.addresses import endpoint_at, is_heard_elsewhere, parse_url
from prfaas.core.errors import ConfigError, EngineError
from prfaas.index.keys import BlockHasher
from prfaas.kv_events.feed import FeedState, KvEventFeed, feeds_context
from prfaas.kv_events.record import CacheRecord
from prfaas.kv_events.sources import PATH, source_of
from prfaas.pool.engines import EngineEntry
from prfaas.process.answers import read_at_most
from prfaas.process.failures import in_words
from prfaas.tls.front import trusting

log = logging.getLogger(__name__)

_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
_MOST_ENGINES = 64
_PAUSE_S = 1.0
"""Before one is followed again whose events we have not understood."""
_LONGEST_ANSWER = 1024 * 1024
"""Bytes, where an engine says what it publishes."""


class EngineReach(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine of the machine is reached from here."""

    name: str
    url: str
    kv_events: str | None = None
    kv_events_replay: str | None = None
    ca: str | None = None


class _Followed(NamedTuple):
    reach: EngineReach
    record: CacheRecord
    task: asyncio.Task[None]


class EngineCaches:
    """On the event loop. ``key``: the deployment's cache key."""

    def __init__(self, key: bytes) -> None:
        self._key, self._hasher = key, BlockHasher(key)
        self._context = feeds_context(_MOST_ENGINES)
        self._turn = asyncio.Lock()
        self._followed: dict[str, _Followed] = {}
        self._pids: dict[str, frozenset[int]] = {}

    def take(self, engines: Iterable[EngineReach]) -> None:
        """Follow these from now on, and no others."""
        wanted = {engine.name: engine for engine in engines}
        for name in [n for n, f in self._followed.items() if wanted.get(n) != f.reach]:
            self._followed.pop(name).task.cancel()
        for name, reach in wanted.items():
            if name not in self._followed:
                self._follow(reach)

    def registered(self, pids: Mapping[str, frozenset[int]]) -> None:
        """Which processes of which engines are connected to the agent: the cache of others is gone
        with them."""
        for name, followed in list(self._followed.items()):
            before, now = self._pids.get(name, frozenset()), pids.get(name, frozenset())
            if before - now:
                self._follow(followed.reach)
        self._pids = dict(pids)

    def rekey(self, key: bytes) -> None:
        """Make names and keys with this one from now on: each record begins anew, and what the
        engines remember is learned once more."""
        self._key, self._hasher = key, BlockHasher(key)
        for followed in list(self._followed.values()):
            self._follow(followed.reach)

    def record(self, engine: str) -> CacheRecord | None:
        """What is known of one engine's cache; None for one that is not followed."""
        followed = self._followed.get(engine)
        return None if followed is None else followed.record

    async def close(self) -> None:
        """Follow nobody any more."""
        tasks = [followed.task for followed in self._followed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def _follow(self, reach: EngineReach) -> None:
        """From the beginning, also one that is followed already."""
        if (before := self._followed.get(reach.name)) is not None:
            before.task.cancel()
        record = CacheRecord(self._hasher, self._key, lambda: feed.state is FeedState.LIVE)
        feed = KvEventFeed(
            reach.name, record, partial(_source, reach), self._context, turn=self._turn
        )
        task = asyncio.create_task(_keep_following(feed))
        self._followed[reach.name] = _Followed(reach, record, task)


async def _keep_following(feed: KvEventFeed) -> None:
    """For ever."""
    while True:
        try:
            await feed.run()
        except Exception:
            log.exception("a fault of ours: what %s has cached is followed anew", feed.engine)
        await asyncio.sleep(_PAUSE_S)


def registered_pids(engines: Iterable[EngineEntry]) -> dict[str, frozenset[int]]:
    """Engine -> the processes of its that are connected."""
    found: dict[str, set[int]] = {}
    for entry in engines:
        found.setdefault(entry.engine, set()).add(entry.pid)
    return {name: frozenset(pids) for name, pids in found.items()}


async def _source(reach: EngineReach) -> tuple[str, str | None]:
    """(events, replay) endpoints. Raises EngineError."""
    events, replay = reach.kv_events, reach.kv_events_replay
    if events is None:
        try:
            trust = True if reach.ca is None else trusting(Path(reach.ca))
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as http,
                http.get(reach.url.rstrip("/") + PATH, ssl=trust) as answer,
            ):
                body = await read_at_most(answer, _LONGEST_ANSWER)
                events, replay = source_of(reach.name, answer.status, body)
                for place in filter(None, (events, replay)):
                    _warn_of_strangers(reach.name, place)
        except ConfigError as error:  # Its authority's file may come, or be whole, later.
            raise EngineError(f"engine {reach.name}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise EngineError(f"engine {reach.name} does not answer: {in_words(error)}") from error
    host = parse_url(reach.url).host
    return endpoint_at(events, host), replay and endpoint_at(replay, host)


@lru_cache(maxsize=1024)  # Once.
def _warn_of_strangers(engine: str, endpoint: str) -> None:
    """The file does not say where it publishes, so nobody could refuse that."""
    if is_heard_elsewhere(endpoint):
        log.warning(
            "engine %s publishes at %s: whoever reaches this machine reads the tokens of every "
            "prompt; start it with an endpoint like ipc:///run/prfaas/%s.events",
            engine,
            endpoint,
            engine,
        )
