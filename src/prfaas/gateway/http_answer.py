"""The answer to one HTTP request, as it comes: what a connection gathers and one task reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from copy import copy
from math import inf
from typing import NamedTuple, Protocol, Self

from prfaas.gateway.room import Room

_MOST_HELD = 256 * 1024
"""Bytes of an answer that wait to be read, before no more are taken from the socket."""
_JOINED_HERE = 4 * 1024 * 1024
"""Bytes that are put together in a millisecond. Of a gigabyte that takes half a second, in which
others have turns."""
_OF_A_PIECE = 64
"""Bytes of memory that one takes beside its own: an answer of pieces of two bytes is twenty times
as large here as it is."""
_LEFT_S = 2.0
_MOST_LEFT = 64 * 1024
"""How long, and how much, may come of an answer that is left to end by itself."""
_TURN_S = 0.002
"""What whoever takes lines may take of the event loop at a time, before others have as much."""


class CannotConnect(OSError):
    """No connection to ``host``:``port`` could be made; ``errno`` says why."""

    def __init__(self, host: str, port: int, cause: OSError) -> None:
        super().__init__(cause.errno, f"cannot connect to {host}:{port}: {cause}")
        self.host, self.port = host, port


class ConnectionBroke(ConnectionError):
    """The connection ended before the answer did. ``unseen``: before anything of it came."""

    def __init__(self, message: str, *, unseen: bool = False) -> None:
        super().__init__(message)
        self.unseen = unseen


class NotHttp(Exception):
    """What came is no answer in HTTP/1."""


class Timeouts(NamedTuple):
    """Seconds: for all of an exchange, for a connection to be made, between two pieces of an
    answer. None: any time. Each raises TimeoutError."""

    total_s: float | None
    connect_s: float = 5.0
    read_s: float | None = None


class Source(Protocol):
    """Where an answer comes from."""

    def abort(self) -> None:
        """End it at once."""

    def go_on(self) -> None:
        """Take more from the socket."""


class Answer:
    """The response to one request, as it comes; ``async with`` closes it. One task reads it, by one
    of its ways. What goes wrong is raised when the bytes before it have been read: ConnectionBroke,
    NotHttp, TimeoutError."""

    def __init__(
        self, connection: Source, timeouts: Timeouts, room: Room | None = None, whose: str = ""
    ) -> None:
        self.whose = whose
        """See `Holder`."""
        self.status = 0
        """0 until its head is here."""
        self._connection = connection
        self._room = room or Room()
        self._loop = asyncio.get_running_loop()
        self._fields: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._held = 0
        self._wants_all = self._left = self._ended = False
        self._most: float = inf
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._read_s = timeouts.read_s
        total_s = timeouts.total_s
        self._alarm = None if total_s is None else self._loop.call_later(total_s, self._expire)

    def header(self, name: str) -> str | None:
        """The first header of this name."""
        wanted = name.lower().encode()
        for key, value in self._fields:
            if key.lower() == wanted:
                return value.decode("latin-1")
        return None

    async def head(self) -> Self:
        """The same, once its head is here."""
        while not self.status:
            self._check()
            await self._more()
        return self

    async def read(self, most: float = inf) -> bytes:
        """All that is left of the body, which counts as held until `close`. Raises NotHttp for more
        bytes than ``most``, or than there is `Room` for."""
        self._wants_all, self._most = True, most
        if self._held > most:
            raise NotHttp(f"the answer has more than {most:.0f} bytes")
        self._connection.go_on()
        try:
            while not self._ended:
                self._check()
                await self._more()
            if self._held <= _JOINED_HERE:
                return self._take()
            parts, self._parts = self._parts, []
            return await asyncio.to_thread(b"".join, parts)
        except BaseException:
            self._room.give_back(self)
            raise
        finally:
            self._wants_all = False

    async def read_any(self) -> bytes:
        """What is there of the body, one byte at least; empty at its end."""
        while not self._parts:
            self._check()
            if self._ended:
                return b""
            await self._more()
        return self._take()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while data := await self.read_any():
            yield data

    async def lines(self, longest: int) -> AsyncIterator[bytes]:
        """The lines of the body, without their ends; however many there are, others have as much of
        the event loop as whoever takes them. Raises ValueError for one of more bytes than
        ``longest``."""
        rest = bytearray()
        while data := await self.read_any():
            rest += data
            if b"\n" in data:
                *lines, rest = rest.split(b"\n")
                began = time.monotonic()
                for line in lines:
                    yield bytes(line)
                    if (took_s := time.monotonic() - began) > _TURN_S:
                        await asyncio.sleep(took_s)
                        began = time.monotonic()
            if len(rest) > longest:
                raise ValueError("a line without an end")
        if rest:
            yield bytes(rest)

    async def newest(self, longest: int, every_s: float) -> AsyncIterator[bytes]:
        """Of lines each of which says all anew, the last that has come, so often at most. Raises
        ValueError for one of more bytes than ``longest``."""
        rest = bytearray()
        while data := await self.read_any():
            rest += data
            if b"\n" in data:  # Others come byte by byte, to have megabytes looked at for each.
                whole, _, rest = rest.rpartition(b"\n")
                yield bytes(whole[whole.rfind(b"\n") + 1 :])
                await asyncio.sleep(every_s)
            if len(rest) > longest:
                raise ValueError("a line without an end")
        if rest:
            yield bytes(rest)

    def leave(self) -> None:
        """Nothing more is wanted, and little can come: its end, which frees the connection. One
        that does not end soon is closed."""
        if self._ended or self._failure is not None:
            return
        self._left = True
        self._parts.clear()
        self._stop_alarm()
        self._alarm = self._loop.call_later(_LEFT_S, self._expire)

    def close(self) -> None:
        """Nothing more is wanted: what has not come ends with its connection. What was read is
        somebody else's to count, or of no use any more."""
        self._room.give_back(self)
        if not self._left:
            self.fail(ConnectionBroke("the connection was closed here"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # -- what the connection tells ---------------------------------------------------------------

    def add_field(self, name: bytes, value: bytes) -> None:
        """A header has come. What follows the body is none of them."""
        if not self.status:
            self._fields.append((name, value))

    def begin(self, status: int) -> None:
        """Its head is complete."""
        self.status = status
        self._wake()

    def forget_fields(self) -> None:
        """They were those of an answer before the answer (status 1xx)."""
        self._fields.clear()

    def add(self, data: bytes) -> bool:
        """Part of the body has come; whether more would be too much."""
        self._held += len(data)
        if self._left:
            if self._held > _MOST_LEFT:
                self.fail(ConnectionBroke("more came than was wanted"))
            return False
        if self._held > self._most:
            self.give_up(NotHttp(f"the answer has more than {self._most:.0f} bytes"))
            return False
        if self._wants_all:
            self._room.take(self, len(data) + _OF_A_PIECE)
            if self._failure is not None:
                return False
        self._parts.append(data)
        if not self._wants_all:
            self._wake()
        return self._held > _MOST_HELD and not self._wants_all

    def end(self) -> None:
        """It is complete."""
        self._ended = True
        self._stop_alarm()
        self._wake()

    def fail(self, why: Exception) -> None:
        """It will not be complete; ends its connection. Nothing where it is."""
        if self._ended or self._failure is not None:
            return
        self._failure = why
        self._stop_alarm()
        self._connection.abort()
        self._wake()

    @property
    def ended(self) -> bool:
        """Whether all of it is here."""
        return self._ended

    @property
    def left(self) -> int:
        """See `Holder`: nothing of it is passed on before all of it is here."""
        return self._held + _OF_A_PIECE * len(self._parts)

    def out_of_room(self) -> None:
        """See `Holder`."""
        self.give_up(NotHttp("its machine's answers are larger than there is room for"))

    def give_up(self, why: Exception) -> None:
        """As `fail`; nor is wanted what has come of it."""
        self._parts.clear()
        self.fail(why)

    def _check(self) -> None:
        if self._failure is not None:
            # Itself it would be in a circle: it holds the frames that it passes, and they hold us.
            raise copy(self._failure)

    def _expire(self) -> None:
        self.fail(TimeoutError("timed out"))

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _more(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            if self._read_s is None:
                await self._waiter
            else:
                async with asyncio.timeout(self._read_s):
                    await self._waiter
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._held = 0
        self._connection.go_on()
        return data
