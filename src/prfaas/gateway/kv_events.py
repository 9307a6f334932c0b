"""Follows one engine's KV events into its prefix index, and says so when it cannot.

vLLM publishes numbered batches on a ZMQ PUB socket and keeps the last 10,000 of them for replay
on a ROUTER socket. Following an engine means: replay all it has, then apply live batches in order.
A gap is replayed; what cannot be replayed empties the index first, because a lost removal would
leave blocks in it that the engine has long dropped. Every few seconds the next number is
asked for, which finds batches lost at the end and a publisher that went silent. While nothing is
known to arrive the index is empty and `state` says so: routing works on, without knowing caches.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import zmq
import zmq.asyncio

from prfaas.core.errors import EngineError
from prfaas.index.engine_index import BlocksStored, EngineIndex

logger = logging.getLogger(__name__)

_OWN_MEDIA = (None, "GPU")
"""Where the engine's own cache lies (so it says on CPUs too); offloaded copies do not count."""
_END = (-1).to_bytes(8, "big", signed=True)
_PROBE_S, _PROBES_PER_S = 5.0, 20
"""An engine is asked for the next number so often; of many all together no more than so many a
second."""
_REPLAY_TIMEOUT_S = 10.0
"""Until the next message of a replay. The publisher looks for requests between two batches, at the
latest every 0.1 s."""


class FeedState(StrEnum):
    """Whether an engine's events are known to arrive."""

    CONNECTING = "connecting"
    LIVE = "live"
    SILENT = "silent"
    """Nothing answers at the replay endpoint: batches may be missing."""


_TokenId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_Tokens = Annotated[int, msgspec.Meta(ge=1)]


class _Stored(msgspec.Struct, frozen=True, tag="BlockStored"):
    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[_TokenId]
    block_size: _Tokens
    medium: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: _Tokens | None = None


class _Removed(msgspec.Struct, frozen=True, tag="BlockRemoved"):
    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class _Cleared(msgspec.Struct, frozen=True, tag="AllBlocksCleared"):
    pass


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    ts: float
    events: list[_Stored | _Removed | _Cleared]


_DECODER = msgspec.msgpack.Decoder(_Batch)


class KvEventFollower:
    """The order of batches, without the sockets: what to apply, and when to ask for a replay."""

    def __init__(self, index: EngineIndex) -> None:
        self.index = index
        self.next_number = 0
        self.batches_total = 0
        self.resets_total = 0
        self.unreadable_total = 0
        self._last_ts = 0.0

    def restart(self) -> None:
        """Forget everything: the engine restarted, or cannot be followed without a hole."""
        self.index.clear()
        self.next_number = 0
        self._last_ts = 0.0
        self.resets_total += 1

    def take(self, number: int, payload: bytes) -> bool:
        """Apply a live batch if it is the next one. False: ask for a replay from `next_number`.

        Raises EngineError for a batch that is not what vLLM sends.
        """
        batch = _decode(payload)
        if number < self.next_number:
            if batch.ts <= self._last_ts:
                return True  # Seen in a replay already.
            self.restart()  # A new publisher numbers from 0 again.
        if number != self.next_number:
            return False
        self._apply(number, batch)
        return True

    def take_replayed(self, number: int, payload: bytes) -> None:
        """Apply a batch of a replay. What is older than the publisher's memory is lost: then the
        index starts from empty."""
        if number < self.next_number:
            return
        if number > self.next_number:
            self.restart()
        self._apply(number, _decode(payload))

    def skip(self, number: int) -> None:
        """A batch cannot be read. What it removed is not known, so the index starts from empty; the
        next batch is one like any other."""
        self.unreadable_total += 1
        if number >= self.next_number:
            self.index.clear()
            self.next_number = number + 1
            self.resets_total += 1

    def _apply(self, number: int, batch: _Batch) -> None:
        for event in batch.events:
            if isinstance(event, _Cleared):
                self.index.clear()
            elif event.medium not in _OWN_MEDIA:
                continue
            elif isinstance(event, _Stored):
                self.index.stored(_stored(event))
            else:
                self.index.removed(event.group_idx, event.block_hashes)
        self.next_number, self._last_ts = number + 1, batch.ts
        self.batches_total += 1


class KvEventFeed:
    """Runs a `KvEventFollower` on an engine's sockets, for as long as the engine is up.

    Args:
        engine: its name, for messages.
        discover: returns (events endpoint, replay endpoint or None) to connect to; asked again
            after a failure. Raises EngineError while it cannot be known.
        feeds: how many of its kind there are.
        turn: shared by them, so that what arrives of many engines at once is not applied in one go:
            requests get their turn after each batch.
    """

    def __init__(
        self,
        engine: str,
        index: EngineIndex,
        discover: Callable[[], Awaitable[tuple[str, str | None]]],
        context: zmq.asyncio.Context,
        *,
        feeds: int = 1,
        turn: asyncio.Lock | None = None,
    ) -> None:
        self.engine = engine
        self._turn = asyncio.Lock() if turn is None else turn
        self._probe_s = max(_PROBE_S, feeds / _PROBES_PER_S) * random.uniform(0.9, 1.1)
        self.follower = KvEventFollower(index)
        self.state = FeedState.CONNECTING
        self._discover = discover
        self._context = context

    async def run(self) -> None:
        """Follow until cancelled; the index is empty before and after."""
        try:
            while True:
                try:
                    await self._follow(*await self._discover())
                except (EngineError, zmq.ZMQError, TimeoutError) as error:
                    self._falls_silent(str(error) or "no answer at the replay endpoint")
                    await asyncio.sleep(1.0)
        finally:
            self.follower.restart()
            self.state = FeedState.CONNECTING

    async def _follow(self, events: str, replay: str | None) -> None:
        self.follower.restart()
        subscriber = self._socket(zmq.SUB)
        subscriber.subscribe(b"")
        try:
            subscriber.connect(events)
            while True:
                await self._replay(replay)
                while (frames := await self._next(subscriber)) is not None:
                    gap = False
                    async with self._turn:
                        with self._bad_message(frames, parts=3):
                            number, payload = _numbered(frames, parts=3)
                            gap = not self.follower.take(number, payload)
                            self._comes_alive()
                        await asyncio.sleep(0)
                    if gap:
                        await self._fill_gap(replay, number, payload)
        finally:
            subscriber.close()

    def _socket(self, kind: zmq.SocketType) -> zmq.asyncio.Socket:
        """Unbounded, gone at once when closed, and for engines on IPv4 and IPv6 alike."""
        made = self._context.socket(kind)
        made.setsockopt(zmq.LINGER, 0)
        made.setsockopt(zmq.RCVHWM, 0)
        made.setsockopt(zmq.IPV6, 1)
        return made

    async def _next(self, subscriber: zmq.asyncio.Socket) -> list[bytes] | None:
        """The next live batch; None when it is time to probe."""
        if await subscriber.poll(self._probe_s * 1000):
            return await subscriber.recv_multipart()
        return None

    async def _fill_gap(self, replay: str | None, number: int, payload: bytes) -> None:
        logger.info("engine %s: KV events skipped to batch %d", self.engine, number)
        if replay is not None:
            await self._replay(replay)
        self.follower.take_replayed(number, payload)

    async def _replay(self, replay: str | None) -> None:
        """Ask for everything from the next number on and apply it. Raises TimeoutError."""
        if replay is None:
            return
        dealer = self._socket(zmq.DEALER)
        try:
            dealer.connect(replay)
            await dealer.send_multipart([b"", self.follower.next_number.to_bytes(8, "big")])
            while True:
                async with asyncio.timeout(_REPLAY_TIMEOUT_S):
                    frames = await dealer.recv_multipart()
                if frames[-2:-1] == [_END]:
                    break
                async with self._turn:
                    with self._bad_message(frames, parts=4):
                        self.follower.take_replayed(*_numbered(frames, parts=4))
                    await asyncio.sleep(0)  # Of thousands that have arrived none makes us wait.
        finally:
            dealer.close()
        self._comes_alive()

    @contextmanager
    def _bad_message(self, frames: list[bytes], *, parts: int) -> Iterator[None]:
        """A message that is not what vLLM sends is an error of that message only. One without a
        number leaves a gap, which the next one shows."""
        try:
            yield
        except EngineError as error:
            logger.warning("engine %s: %s", self.engine, error)
            with suppress(EngineError):
                self.follower.skip(_numbered(frames, parts=parts)[0])

    def _comes_alive(self) -> None:
        if self.state is not FeedState.LIVE:
            logger.info("engine %s: following its KV events", self.engine)
        self.state = FeedState.LIVE

    def _falls_silent(self, why: str) -> None:
        if self.state is FeedState.LIVE:
            logger.warning("engine %s: KV events stopped (%s)", self.engine, why)
            self.follower.restart()
        elif self.state is FeedState.CONNECTING:
            logger.warning("engine %s: no KV events yet (%s)", self.engine, why)
        self.state = FeedState.SILENT


def _numbered(frames: list[bytes], *, parts: int) -> tuple[int, bytes]:
    """The number and the payload of a batch, its message's last two parts. Raises EngineError for
    a message that is not what vLLM sends."""
    if len(frames) == parts and 0 <= (number := int.from_bytes(frames[-2], "big")) < 1 << 63:
        return number, frames[-1]
    raise EngineError(f"a KV event message of {len(frames)} parts, or without a number")


def _decode(payload: bytes) -> _Batch:
    try:
        return _DECODER.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineError(f"unreadable KV events: {error}") from error


def _stored(event: _Stored) -> BlocksStored:
    return BlocksStored(
        group=event.group_idx or 0,
        kind=event.kv_cache_spec_kind or "full_attention",
        block_tokens=event.block_size,
        hashes=event.block_hashes,
        parent=event.parent_block_hash,
        token_ids=event.token_ids,
        extra_keys=event.extra_keys,
        window_tokens=event.kv_cache_spec_sliding_window,
    )
