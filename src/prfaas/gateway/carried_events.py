"""Follows one engine's cache through its agent, into the prefix index.

The agent tells names and keys, never a token (`kv_events.wire`). What was learned is kept for a
while when the line breaks, and the agent goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
import numpy as np

from prfaas.core.errors import EngineError, LinkError
from prfaas.gateway.upstream_errors import LocalFault
from prfaas.index.cache_events import BlocksGone, BlocksKeyed
from prfaas.index.engine_index import EngineIndex
from prfaas.kv_events.feed import FeedState
from prfaas.kv_events.silence import Silence
from prfaas.kv_events.wire import Alive, Begun, Changed, Frame, Held, Reached, Stopped

logger = logging.getLogger(__name__)

_RETRY_S = 1.0
_KEPT_S = 30.0
"""What an engine held that long ago says little of what it holds."""
_ANEW_S = 0.5
"""So often at most an engine's cache begins anew: to empty an index takes time."""
_AT_ONCE = 512
"""Blocks that are applied in one go: a millisecond or two. A frame may be of half a million."""
_OF_AN_EVENT = 16
"""What an event takes, however few blocks it is of, in blocks."""


class KeyedFollower:
    """The order of frames, without the line: what to apply, and where to go on from."""

    def __init__(self, index: EngineIndex, key_id: str) -> None:
        self.index, self._key_id = index, key_id
        self.stopped = Stopped()
        """The agent answers with what comes after."""
        self.batches_total = 0
        self.resets_total = 0
        self.unreadable_total = 0

    def rekey(self, key_id: str) -> None:
        """Take what is keyed with this key from now on; it must not run."""
        self._key_id = key_id

    def restart(self) -> None:
        """Forget everything."""
        self.index.clear()
        self.stopped = Stopped()
        self.resets_total += 1

    def leave(self) -> None:
        """The engine is gone for good: its place in the index is given back."""
        self.index.leave()

    def take(self, frame: Frame) -> None:
        """Apply the next one. Raises EngineError for one that cannot be."""
        for _ in self.steps(frame):
            pass

    def steps(self, frame: Frame) -> Iterator[None]:
        """The same, with a pause wherever many blocks were applied."""
        epoch, number, told = self.stopped
        if isinstance(frame, Begun):
            if frame.key_id != self._key_id:
                raise EngineError(
                    "its agent has another cache key, or is of another release; give all agents "
                    "and gateways the same cache.key: they take it over while they run"
                )
            self.restart()
            self.stopped = Stopped(frame.epoch, frame.number, 0)
        elif isinstance(frame, Held):
            if told is None:
                raise EngineError("a piece of a cache that has not begun")
            yield from self._apply(frame.events)
            self.stopped = Stopped(epoch, number, told + 1)
        elif isinstance(frame, Reached):
            if told is None:
                raise EngineError("the end of a cache that has not begun")
            self.stopped = Stopped(epoch, frame.number)
        elif isinstance(frame, Changed):
            if frame.number != number + 1 or not epoch or told is not None:
                raise EngineError(f"change {frame.number} after change {number}")
            yield from self._apply(frame.events)
            self.stopped = Stopped(epoch, frame.number)
            self.batches_total += 1

    def _apply(self, events: list[BlocksKeyed | BlocksGone]) -> Iterator[None]:
        applied = 0
        for event in events:
            for piece in _pieces(event):
                if isinstance(piece, BlocksKeyed):
                    self.index.stored_keyed(piece)
                else:
                    self.index.removed(piece.group, np.frombuffer(piece.names, "<u8").tolist())
                applied += len(piece.names) // 8 + _OF_AN_EVENT
                if applied >= _AT_ONCE:
                    applied = 0
                    yield


def _pieces(event: BlocksKeyed | BlocksGone) -> Iterator[BlocksKeyed | BlocksGone]:
    """The same in several events, where it is long."""
    names, size = event.names, 8 * _AT_ONCE
    if len(names) <= size:
        yield event
        return
    keys = b"" if isinstance(event, BlocksGone) else event.keys
    lows, highs = keys[: len(names)], keys[len(names) :]
    for start in range(0, len(names), size):
        here = slice(start, start + size)
        if isinstance(event, BlocksGone):
            yield BlocksGone(event.group, names[here])
            continue
        before = int.from_bytes(names[start - 8 : start], "little") if start else event.parent
        yield msgspec.structs.replace(
            event, names=names[here], keys=lows[here] + highs[here], parent=before
        )


class CarriedFeed:
    """Runs a `KeyedFollower` for as long as the engine is up.

    Args:
        follow: gives frames from where it was stopped, until the line breaks (LinkError).
        turn: see `KvEventFeed`.
    """

    def __init__(
        self,
        engine: str,
        follower: KeyedFollower,
        follow: Callable[[Stopped], AsyncIterator[Frame]],
        turn: asyncio.Lock,
    ) -> None:
        self.engine, self.follower = engine, follower
        self.state = FeedState.CONNECTING
        self._follow, self._turn = follow, turn
        self._heard_at = 0.0
        self._began_at = -math.inf
        self._silence = Silence()

    async def run(self) -> None:
        """Follow until cancelled; the index is empty before and after."""
        self.follower.restart()
        try:
            while True:
                try:
                    await self._take_all()
                except LocalFault as error:
                    logger.warning("%s", error)
                except LinkError as error:
                    self._falls_silent(str(error))
                except EngineError as error:
                    self.follower.unreadable_total += 1
                    self._falls_silent(str(error))
                    self.follower.restart()
                if asyncio.get_running_loop().time() - self._heard_at > _KEPT_S:
                    self.follower.restart()
                await asyncio.sleep(_RETRY_S)
        finally:
            self.follower.restart()
            self.state = FeedState.CONNECTING

    async def _take_all(self) -> None:
        clock = asyncio.get_running_loop().time
        async for frame in self._follow(self.follower.stopped):
            if isinstance(frame, Begun):
                await asyncio.sleep(max(0.0, self._began_at + _ANEW_S - clock()))
                self._began_at = clock()
            async with self._turn:
                for _ in self.follower.steps(frame):
                    await asyncio.sleep(0)
                self._heard_at = clock()
                await asyncio.sleep(0)
            if isinstance(frame, Alive) and not frame.live:
                self._falls_silent("its agent does not hear of it")
            elif isinstance(frame, Alive | Reached | Changed) and self.follower.stopped.epoch:
                self._comes_alive()

    def _comes_alive(self) -> None:
        if self.state is not FeedState.LIVE:
            logger.info("engine %s: following its cache", self.engine)
        self._silence.ends()
        self.state = FeedState.LIVE

    def _falls_silent(self, why: str) -> None:
        if self._silence.is_new(why):
            logger.warning("engine %s: nothing is heard of its cache (%s)", self.engine, why)
        self.state = FeedState.SILENT
