"""What an agent remembers of one engine's cache, for those who follow it: all that is held, and the
last changes."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from prfaas.index.engine_index import BlocksStored
from prfaas.index.keyed_blocks import KeyedBlocks, KeyedEvent, key_id
from prfaas.index.keys import BlockHasher
from prfaas.index.words import BlockHash
from prfaas.kv_events.wire import ALIVE_S, Alive, Begun, Changed, Held, Reached, packed

_MOST_BYTES = 4 * 1024 * 1024
"""Of changes that are remembered: who was away for longer is told all that is held."""


class CacheRecord:
    """A `BlockSink`, and its followers on the same event loop. ``live``: whether the engine's
    events are known to arrive."""

    def __init__(self, hasher: BlockHasher, key: bytes, live: Callable[[], bool]) -> None:
        self._blocks = KeyedBlocks(hasher, key)
        self._key_id, self._live = key_id(key), live
        self._changes: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self.epoch, self.number = _epoch(), 0

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
        self._changes.clear()
        self._bytes = 0
        self.epoch, self.number = _epoch(), 0
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

    async def follow(self, epoch: str, number: int) -> AsyncIterator[bytes]:
        """Packed frames, for ever, to who knows all up to change ``number`` of ``epoch``. What is
        not taken is not made: a slow follower costs no memory."""
        yield packed(Alive(self._live()))
        while True:
            changes = self._after(number) if epoch == self.epoch else None
            if changes is None:
                epoch, number = self.epoch, self.number
                yield packed(Begun(epoch, self._key_id))
                for event in self._blocks.snapshot():
                    yield packed(Held([event]))
                yield packed(Reached(number))
            elif changes:
                number = changes[-1][0]
                yield b"".join(frame for _, frame in changes)
            else:
                yield packed(Alive(self._live()))
                await self._until_news()

    def _after(self, number: int) -> list[tuple[int, bytes]] | None:
        """The next changes after this one; None where some are forgotten or it never was."""
        first = self._changes[0][0] if self._changes else self.number + 1
        if not first - 1 <= number <= self.number:
            return None
        start = len(self._changes) - (self.number - number)
        end = min(start + _AT_ONCE, len(self._changes))
        return [self._changes[at] for at in range(start, end)]

    def _change(self, event: KeyedEvent | None) -> None:
        if event is None:
            return
        self.number += 1
        frame = packed(Changed(self.number, [event]))
        self._changes.append((self.number, frame))
        self._bytes += len(frame)
        while self._bytes > _MOST_BYTES:
            self._bytes -= len(self._changes.popleft()[1])
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


_AT_ONCE = 256
"""Changes that a follower is given together: others get a turn after them."""


def _epoch() -> str:
    return os.urandom(8).hex()
