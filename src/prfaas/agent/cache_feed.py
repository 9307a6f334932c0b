"""Tells those who follow the cache over HTTP what it holds, and what comes and goes.

A follower gets everything that is cached, then every change. What happens while it joins may be
told twice: both kinds of news are about the state, and telling them again changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from prfaas.agent.driver import PoolDriver
from prfaas.core.cache_news import Alive, CacheNews, Evicted, KeyedWith, Stored, Whole
from prfaas.index.keyed_prefixes import KeyedPrefixes
from prfaas.pool.effects import AnnounceCached, AnnounceEvicted

_MOST_NEWS = 10_000
"""Of a follower that does not read: it is cut off, and begins anew."""

ALIVE_S = 1.0
"""So often a follower hears something, or it would not know a silent agent from a dead one."""


class CacheFeed:
    """On the event loop. ``prefixes`` learn what an earlier life of the agent has left on disk;
    ``disk_rate``: bytes a second that are read from there, once that was measured."""

    def __init__(
        self, driver: PoolDriver, prefixes: KeyedPrefixes, disk_rate: Callable[[], float | None]
    ) -> None:
        self._driver, self._prefixes, self._disk_rate = driver, prefixes, disk_rate
        self._followers: set[asyncio.Queue[CacheNews]] = set()
        driver.carry_out(AnnounceCached, self._cached)
        driver.carry_out(AnnounceEvicted, lambda effect: self._tell(_evicted(effect)))

    def begin_anew(self) -> None:
        """Names are made with another key now: who follows is told all there is once more, in a
        stream of its own."""
        self._followers.clear()

    async def follow(self) -> AsyncIterator[CacheNews]:
        """All there is, then `Whole`, then what changes, all under one key; ends for a follower
        that is too slow, and where the key is exchanged."""
        queue: asyncio.Queue[CacheNews] = asyncio.Queue(_MOST_NEWS)
        self._followers.add(queue)
        try:
            cached = self._driver.cached()
            yield KeyedWith(self._prefixes.key_id)
            # A block is only placed where the one before it is known.
            for effect in sorted(cached, key=lambda effect: effect.prefix.from_token):
                yield _stored(effect)
            yield Whole()
            told = None
            while queue in self._followers or not queue.empty():
                if (rate := self._disk_rate()) != told:
                    told = rate
                    yield Alive(rate)
                try:
                    async with asyncio.timeout(ALIVE_S):
                        news = await queue.get()
                except TimeoutError:
                    news = Alive()
                yield news
        finally:
            self._followers.discard(queue)

    def _cached(self, effect: AnnounceCached) -> None:
        if effect.tier == "disk":
            self._prefixes.learn(effect.prefix)
        self._tell(_stored(effect))

    def _tell(self, news: CacheNews) -> None:
        for queue in list(self._followers):
            try:
                queue.put_nowait(news)
            except asyncio.QueueFull:
                self._followers.discard(queue)


def _stored(effect: AnnounceCached) -> Stored:
    key = effect.key
    return Stored(
        key.transfer_id,
        key.rank,
        key.epoch,
        effect.layout,
        effect.prefix,
        effect.stands_at,
        effect.tier,
    )


def _evicted(effect: AnnounceEvicted) -> Evicted:
    return Evicted(effect.key.transfer_id, effect.key.rank, effect.key.epoch)
