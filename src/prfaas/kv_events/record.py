"""What an agent remembers of one engine's cache, for those who follow it: all that is held, and the
last changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence

from prfaas.index.cache_events import BlocksStored, KeyedEvent
from prfaas.index.keyed_blocks import KeyedBlocks, key_id
from prfaas.index.keys import BlockHasher
from prfaas.index.words import BlockHash
from prfaas.kv_events.telling import Changes
from prfaas.kv_events.wire import ALIVE_S, Alive, Begun, Changed, Reached, Stopped, packed


class CacheRecord:
    """A `BlockSink`, and its followers on the same event loop. ``live``: whether the engine's
    events are known to arrive."""

    def __init__(self, hasher: BlockHasher, key: bytes, live: Callable[[], bool]) -> None:
        self._blocks = KeyedBlocks(hasher, key)
        self._key_id, self._live = key_id(key), live
        self._changes = Changes()
        self._news = asyncio.Event()
        self.epoch = _epoch()

    @property
    def number(self) -> int:
        """Of the last change."""
        return self._changes.number

    @property
    def blocks(self) -> int:
        """Held over all groups."""
        return self._blocks.blocks

    @property
    def unplaced_blocks_total(self) -> int:
        """Those that could not be keyed."""
        return self._blocks.unplaced_blocks_total

    def clear(self) -> None:
        """See `BlockSink`."""
        if not self.number:
            return
        self._blocks.clear()
        self._changes = Changes()
        self.epoch = _epoch()
        self._tell()

    def leave(self) -> None:
        """See `BlockSink`."""
        self.clear()

    def stored(self, event: BlocksStored) -> None:
        """See `BlockSink`."""
        self._change(self._blocks.stored(event))

    def removed(self, group_index: int | None, hashes: Sequence[BlockHash]) -> None:
        """See `BlockSink`."""
        self._change(self._blocks.removed(group_index, hashes))

    async def follow(self, stopped: Stopped) -> AsyncIterator[bytes]:
        """Packed frames, for ever, to who stopped there. What is not taken is not made: a slow
        follower costs no memory."""
        epoch, number, told = stopped
        yield packed(Alive(self._live()))
        while True:
            known = epoch == self.epoch
            telling = self._changes.telling(number) if known and told is not None else None
            changes = self._changes.after(number) if known and told is None else None
            if telling is not None and told is not None:
                piece = telling.piece(told)
                yield packed(Reached(number)) if piece is None else piece
                told = None if piece is None else told + 1
            elif changes is None:
                telling = self._changes.newest_telling(self.blocks, self._blocks.snapshot)
                epoch, number, told = self.epoch, telling.number, 0
                yield packed(Begun(epoch, self._key_id, number))
            elif changes:
                number += len(changes)
                yield b"".join(changes)
            else:
                yield packed(Alive(self._live()))
                await self._until_news()

    def _change(self, event: KeyedEvent | None) -> None:
        if event is None:
            return
        self._changes.add(packed(Changed(self.number + 1, [event])), self.blocks)
        self._tell()

    async def _until_news(self) -> None:
        news = self._news
        try:
            async with asyncio.timeout(ALIVE_S):
                await news.wait()
        except TimeoutError:
            pass

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _epoch() -> str:
    return os.urandom(8).hex()
