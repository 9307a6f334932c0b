"""Follows one engine's KV events, and says so when it cannot.

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

import zmq
import zmq.asyncio

from prfaas.core.errors import EngineError
from prfaas.kv_events.follower import BlockSink, KvEventFollower
from prfaas.kv_events.silence import Silence

logger = logging.getLogger(__name__)

_END = (-1).to_bytes(8, "big", signed=True)
_PROBE_S, _PROBES_PER_S = 5.0, 20
"""An engine is asked for the next number so often; of many all together no more than so many a
second."""
_REPLAY_TIMEOUT_S = 10.0
"""Until the next message of a replay. The publisher looks for requests between two batches, at the
latest every 0.1 s."""
_LONGEST_REPLAY_TIMEOUT_S = 160.0
"""What it is doubled to at most, where the line is so slow that one message takes longer."""
_SPARE_SOCKETS = 1000
"""For engines that join; a feed has one socket, and a second while it asks."""


def feeds_context(engines: int) -> zmq.asyncio.Context:
    """A context for the feeds of so many engines: by default there are sockets for 1,000."""
    context = zmq.asyncio.Context()
    context.set(zmq.MAX_SOCKETS, 4 * engines + _SPARE_SOCKETS)
    return context


class FeedState(StrEnum):
    """Whether an engine's events are known to arrive."""

    CONNECTING = "connecting"
    LIVE = "live"
    SILENT = "silent"
    """Nothing answers at the replay endpoint: batches may be missing."""


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
        index: BlockSink,
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
        self._silence = Silence()
        self._patience_s = _REPLAY_TIMEOUT_S
        self._catching_up = False  # It has begun to learn what is remembered, and not learned all.
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
            self._catching_up = False
            self.state = FeedState.CONNECTING

    async def _follow(self, events: str, replay: str | None) -> None:
        if not self._catching_up:  # Else what has been learned so far is not learned again.
            self.follower.restart()
        self._catching_up = True
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
                        await self._take_rest()
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

    async def _take_rest(self) -> None:
        """Of a large batch, with turns for others, who get one in any case."""
        await asyncio.sleep(0)
        for _ in iter(self.follower.go_on, False):
            await asyncio.sleep(0)

    async def _replay(self, replay: str | None) -> None:
        """Ask for everything from the next number on and apply it, again from where it stopped.
        Raises TimeoutError where that leads no further.

        vLLM hands all that it remembers to a socket that holds a thousand messages, and over a slow
        line those beyond are dropped, with the one that says that it was the last.
        """
        if replay is None:
            return
        while not await self._replayed(replay):
            pass
        self._patience_s = _REPLAY_TIMEOUT_S
        self._comes_alive()

    async def _replayed(self, replay: str) -> bool:
        """One question; whether all of the answer came. Raises TimeoutError where nothing did."""
        begun, first = self.follower.next_number, True
        dealer = self._socket(zmq.DEALER)
        try:
            dealer.connect(replay)
            await dealer.send_multipart([b"", self.follower.next_number.to_bytes(8, "big")])
            while True:
                async with asyncio.timeout(self._patience_s):
                    frames = await dealer.recv_multipart()
                if frames[-2:-1] == [_END]:
                    return True
                async with self._turn:
                    with self._bad_message(frames, parts=4):
                        number, payload = _numbered(frames, parts=4)
                        # Before the first, what lies between is forgotten; later, it was dropped.
                        if not first and number > self.follower.next_number:
                            return False
                        first = False
                        self.follower.take_replayed(number, payload)
                    # Of thousands that have arrived none makes us wait.
                    await self._take_rest()
        except TimeoutError:
            if self.follower.next_number > begun:
                return False
            # One message may take longer than that.
            self._patience_s = min(2 * self._patience_s, _LONGEST_REPLAY_TIMEOUT_S)
            raise
        finally:
            dealer.close()

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
        self._catching_up = False
        if self.state is not FeedState.LIVE:
            logger.info("engine %s: following its KV events", self.engine)
        self._silence.ends()
        self.state = FeedState.LIVE

    def _falls_silent(self, why: str) -> None:
        if self.state is FeedState.LIVE:
            self.follower.restart()
        if self._silence.is_new(why):
            what = "KV events stopped" if self.state is FeedState.LIVE else "no KV events"
            logger.warning("engine %s: %s (%s)", self.engine, what, why)
        self.state = FeedState.SILENT


def _numbered(frames: list[bytes], *, parts: int) -> tuple[int, bytes]:
    """The number and the payload of a batch, its message's last two parts. Raises EngineError for
    a message that is not what vLLM sends."""
    if len(frames) == parts and 0 <= (number := int.from_bytes(frames[-2], "big")) < 1 << 63:
        return number, frames[-1]
    raise EngineError(f"a KV event message of {len(frames)} parts, or without a number")
