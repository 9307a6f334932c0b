"""One connection to an engine or agent: HTTP/1.1, one exchange at a time.

Theory of operation. A request goes out in one write. What comes back goes through llhttp (by
`httptools`), whose callbacks gather an `Answer`; one task reads it. When all of it is here the
connection is free for the next exchange, whether or not the answer has been read. A stream that is
not read fast enough has its socket left unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Self, cast

import httptools

_LONGEST_HEAD = 64 * 1024
"""Bytes of an answer's head, or of what follows it unasked."""
_MOST_HELD = 256 * 1024
"""Bytes of an answer that wait to be read, before no more are taken from the socket."""
_COPIED = 64 * 1024
"""A body below so many bytes goes out in one write with its head."""
_VERSIONS = ("1.1", "1.0")


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


class Answer:
    """The response to one request, as it comes; ``async with`` closes it. One task reads it, by one
    of its ways. What goes wrong is raised when the bytes before it have been read: ConnectionBroke,
    NotHttp, TimeoutError."""

    def __init__(self, connection: Connection, timeouts: Timeouts) -> None:
        self.status = 0
        """0 until its head is here."""
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._fields: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._held = 0
        self._wants_all = self._ended = False
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
            if self._failure is not None:
                raise self._failure
            await self._more()
        return self

    async def read(self) -> bytes:
        """All that is left of the body."""
        self._wants_all = True
        self._connection.go_on()
        while not self._ended:
            if self._failure is not None:
                raise self._failure
            await self._more()
        return self._take()

    async def read_any(self) -> bytes:
        """What is there of the body, one byte at least; empty at its end."""
        while not self._parts:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return b""
            await self._more()
        return self._take()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while data := await self.read_any():
            yield data

    async def lines(self, longest: int) -> AsyncIterator[bytes]:
        """The lines of the body, without their ends. Raises ValueError for one of more bytes than
        ``longest``."""
        rest = bytearray()
        while data := await self.read_any():
            rest += data
            if b"\n" in data:
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    yield bytes(line)
            if len(rest) > longest:
                raise ValueError("a line without an end")
        if rest:
            yield bytes(rest)

    def close(self) -> None:
        """Nothing more is wanted: what has not come ends with its connection."""
        self.fail(ConnectionBroke("the connection was closed here"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    # -- what the connection tells ---------------------------------------------------------------

    def add_field(self, name: bytes, value: bytes) -> None:
        """A header has come."""
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
        self._parts.append(data)
        self._held += len(data)
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


class Connection(asyncio.Protocol):
    """``on_free`` is called when it can take another request."""

    def __init__(self, on_free: Callable[[Connection], None]) -> None:
        self.is_open = False
        self.free_since = 0.0
        self._on_free = on_free
        self._answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._before_answer = False
        self._head_bytes = 0
        self._paused = False

    async def ask(self, head: bytes, body: bytes, timeouts: Timeouts) -> Answer:
        """Send a request; returns when the head of its answer is here. Raises as `Answer` does."""
        answer = self._answer = Answer(self, timeouts)
        self._head_bytes = 0
        if self.is_open and len(body) < _COPIED:
            self._transport.write(head + body)
        elif self.is_open:
            self._transport.write(head)
            self._transport.write(body)
        else:
            answer.fail(ConnectionBroke("the server closed the connection", unseen=True))
        try:
            return await answer.head()
        except BaseException:
            answer.close()
            raise

    def abort(self) -> None:
        """End it at once."""
        self.is_open = False
        self._answer = None
        self._transport.abort()

    def go_on(self) -> None:
        """Take more from the socket."""
        if self._paused:
            self._paused = False
            if self.is_open:
                self._transport.resume_reading()

    # -- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every event loop's transports are made from asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()  # It speaks without being asked.
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            answer.fail(NotHttp("the answer is another protocol"))
        except httptools.HttpParserError as error:
            answer.fail(NotHttp(f"the answer is no HTTP: {error}"))
            self.abort()
        if not answer.status and self._head_bytes > _LONGEST_HEAD:
            answer.fail(NotHttp("the answer's head has no end"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if exc is None and answer.status and not _says_its_length(answer):
            answer.end()
            return
        why = "the server closed the connection" if exc is None else str(exc)
        answer.fail(ConnectionBroke(why, unseen=not self._head_bytes))

    # -- llhttp ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.abort()  # An answer to no request follows.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None:
            self._answer.add_field(name, value)

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if answer is None:
            return
        self._before_answer = status < 200
        if self._before_answer:
            answer.forget_fields()
            return
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            answer.fail(NotHttp(f"the answer is HTTP/{version}"))
            return
        answer.begin(status)

    def on_body(self, data: bytes) -> None:
        if self._answer is not None and self._answer.add(data) and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None or self._before_answer:
            return
        self._answer = None
        answer.end()
        self.go_on()
        # A server may answer before it has read all: what is left would be the next request's.
        if self._parser.should_keep_alive() and not self._transport.get_write_buffer_size():
            self._on_free(self)
        else:
            self.abort()


def _says_its_length(answer: Answer) -> bool:
    names = ("Content-Length", "Transfer-Encoding")
    return any(answer.header(name) is not None for name in names)
