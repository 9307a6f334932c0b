"""One connection of an HTTP server that strangers can reach: what it has said, and may cost.

aiohttp bounds each line of a request; here its whole head is bounded, a reader that takes nothing
is known, and what is no HTTP gets an answer in JSON. A body in chunks is taken apart when it is
wanted, a piece at a time: what came in one go may be tens of thousands of chunks.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

import msgspec
from aiohttp import web

from prfaas.process.connections import Connection, Connections
from prfaas.process.lines import Lines
from prfaas.process.taking_turns import TakingTurns, want
from prfaas.process.turns import Turns
from prfaas.tls.pace import Pace
from prfaas.tls.records import watch

TakeOver = Callable[
    [bytes, asyncio.Transport, Callable[[], None], Callable[[BaseException | None], None]], None
]
"""Takes over a connection, with the first bytes that came. Calls the one function when it is known
that this may be asked for: until then it is a stranger's. The other when it is lost."""
Others = Mapping[bytes, TakeOver]
"""Who takes over connections that begin with these bytes."""
NO_OTHERS: Others = {}

_HEAD_BYTES = 32 * 1024
"""Of all headers of a request: thousands of strangers that send some cost little memory."""
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_SMALL_BYTES = 64 * 1024
"""A plain body of so many is read though it is not wanted: its connection may be used again."""
_DROP_EVERY_S = 0.01
"""Of what is dropped a quarter of a megabyte is read so often: over TLS it may be eleven thousand
records of a byte, and a loop that reads all that there is deciphers megabytes of them at once."""
_BODY_S = 10.0
"""For the small ones that `read_body` is for."""
_PIECE_BYTES = 64 * 1024
_QUOTED = re.compile(r":?\s+b['\"]")
"""Where aiohttp begins to quote a head, in which there may be a key."""


class StrangersHandler(TakingTurns):
    """aiohttp's, which also knows its connection, and refuses in JSON."""

    __slots__ = (
        "_answered", "_book", "_entry", "_gone", "_head_bytes", "_lines", "_open", "_others",
        "_pace", "_unwanted", "received",
    )  # fmt: skip

    def __init__(
        self,
        server: web.Server,
        book: Connections,
        entry: Connection,
        turns: Turns,
        lines: Lines,
        others: Others = NO_OTHERS,
        **settings: Any,
    ) -> None:
        super().__init__(server, turns, **settings)
        self._book, self._entry, self._lines, self._others = book, entry, lines, others
        self._pace: Pace | None = None
        """Over TLS."""
        self._head_bytes = self.received = 0
        """Bytes: of the head that comes, and of all that has come and was taken apart."""
        self._answered: web.BaseRequest | None = None
        """The request whose answer is being sent as a whole."""
        self._open: asyncio.Transport | None = None
        """Until it is lost; aiohttp's own is gone when it is told to close."""
        self._unwanted = False
        """Whether nothing more is wanted: what comes is dropped as it is."""
        self._gone: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not for isinstance: uvloop's transports are asyncio's in all but their class.
        self._open = cast("asyncio.Transport", transport)
        self._entry.drop = self._open.abort
        secured = self._open.get_extra_info("ssl_object")
        if secured is not None:
            self._pace = Pace(
                watch(secured, self._open.abort),
                lambda records: self._lines.comes_in_s(records, self._entry.whose),
                pause=self._pause_transport_reading,
                resume=self._go_on_reading,
            )
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._pace is not None:
            self._pace.came(len(data))
        if self._unwanted:
            self._pause_transport_reading()
            self._loop.call_later(_DROP_EVERY_S, self._resume_transport_reading)
            return
        others, self._others = self._others, NO_OTHERS  # Only a connection's first bytes tell.
        take_over = next((others[begin] for begin in others if data.startswith(begin)), None)
        if take_over is not None and self.transport is not None:
            self.keep_alive(True)  # Or aiohttp ends it as a connection that asks for nothing.
            if self._pace is not None:
                self._pace.records.told_elsewhere()
            take_over(data, self.transport, self.admit, self.connection_lost)
        else:
            super().data_received(data)

    def _go_on_reading(self) -> None:
        if self._unwanted or not (self._reading_paused or self._buffer_paused):
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if self._pace is None or not self._pace.holds:
            super()._resume_transport_reading()

    def take_apart(self, data: bytes) -> None:
        """See `TakingTurns`."""
        self.received += len(data)
        waiting, is_of_head = len(self._messages), self.comes_head
        super().take_apart(data)
        if not is_of_head or len(self._messages) > waiting:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES and self.transport is not None:
            if self._is_idle:
                self.transport.write(_HEAD_TOO_LARGE)
                self.force_close()
            else:  # Another answer is under way.
                self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._open = self._pace = None  # Which leads back here.
        self._book.gone(self._entry)
        if not self._gone.done():
            self._gone.set_result(None)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._book.stuck(self._entry, time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._book.flows(self._entry)
        super().resume_writing()

    def end_if_idle(self) -> None:
        """End it at once where no request is under way and all that was said has been sent. A peer
        that is told first, over TLS, has half a minute to say that it has heard of it, and the
        connection is open until then."""
        under_way = self._current_request is not None or self._answered is not None
        if self._open is None or self._messages or under_way:
            return
        with suppress(AttributeError):  # asyncio's transport, where it was told to close twice.
            if not self._open.get_write_buffer_size():
                self._open.abort()

    def admit(self, whose: str = "") -> None:
        """See `admit`."""
        self._book.admitted(self._entry, whose)

    def answered(self) -> None:
        """See `answered`."""
        self._book.answered(self._entry, time.monotonic())

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self._waiter is not None and not self._waiter.done()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send it. What aiohttp says of an ``Expect`` before any of ours is asked is an error in
        JSON as well. A body that was not read is not read any more."""
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = self.handle_error(request, resp.status, message="Expect may be 100-continue")
        if not request.content.is_eof() and not _is_small(request):
            self._unwanted = True
            self.let_go()
            resp.force_close()
        self._answered = request
        try:
            sent = await super().finish_response(request, resp, start_time)
        finally:
            self._answered = None
        if self._unwanted:
            await self._part()
        return sent

    async def _part(self) -> None:
        """Wait until the client has read what it was told: it is reset where it still sends when
        its connection is closed. aiohttp would take chunks apart meanwhile, and unpack what is
        packed, for seconds in which nobody else has a turn."""
        linger_s, self._lingering_time = self._lingering_time, 0.0
        self._resume_transport_reading()
        with suppress(TimeoutError):
            async with asyncio.timeout(linger_s):
                await asyncio.shield(self._gone)
        if self._open is not None:  # Over TLS the end would be told first, and all read until then.
            self._open.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is the client's mistake, and no news for an operator. Nor is one who has
        gone before it was told anything, as by aiohttp that its ``Expect`` is met."""
        gone = isinstance(exc, ConnectionError) and (self._open is None or self._open.is_closing())
        if status >= 500 and not gone:
            return super().handle_error(request, status, exc, message)
        said = " ".join(_QUOTED.split(message or "this is no HTTP request", 1)[0].split())[:500]
        error = {"message": said, "type": "invalid_request_error", "param": None, "code": status}
        response = web.Response(
            status=status,
            body=msgspec.json.encode({"error": error}),
            content_type="application/json",
        )
        response.force_close()
        return response


def received(request: web.BaseRequest) -> int:
    """How many bytes have come over its connection so far, as they came; of a body in chunks those
    that have been taken apart."""
    handler = request.protocol
    return handler.received if isinstance(handler, StrangersHandler) else 0


def _is_small(request: web.BaseRequest) -> bool:
    size = request.content_length
    plain = "Content-Encoding" not in request.headers
    return plain and size is not None and size <= _SMALL_BYTES


def admit(request: web.Request, whose: str = "") -> None:
    """Whoever sent this may ask for it: strangers do not push its connection out, nor do those of
    another's of more than a share, while it asks for nothing."""
    if isinstance(request.protocol, StrangersHandler):
        request.protocol.admit(whose)


def answered(request: web.Request) -> None:
    """The request is over, admitted or not; its connection may be used again."""
    if isinstance(request.protocol, StrangersHandler):
        request.protocol.answered()


async def read_body(request: web.Request, *, most: int, within_s: float = _BODY_S) -> bytes:
    """A small one. Raises HTTPRequestEntityTooLarge; HTTPRequestTimeout for one without end;
    HTTPBadRequest for one that is not chunked or packed as its headers say."""
    body = bytearray()
    want(request)
    try:
        async with asyncio.timeout(within_s):
            async for data in request.content.iter_any():
                body += data
                if len(body) > most:
                    raise web.HTTPRequestEntityTooLarge(most, len(body))
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body has not come in {within_s:g} s") from error
    except web.RequestPayloadError as error:
        request.content.feed_eof()  # Or aiohttp reads on, and logs a traceback.
        raise web.HTTPBadRequest(text="the body cannot be read as its headers say") from error
    return bytes(body)


async def in_pieces(
    request: web.Request, body: bytes, content_type: str, *, status: int = 200
) -> web.StreamResponse:
    """A large answer that is made once and given to many: who does not read it holds a piece of
    it in this process, not all."""
    headers = {"Content-Type": content_type}
    if len(body) <= _PIECE_BYTES or request.method == "HEAD":
        return web.Response(body=body, status=status, headers=headers)
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = len(body)
    with suppress(ConnectionError):  # It has gone.
        await response.prepare(request)
        for start in range(0, len(body), _PIECE_BYTES):
            await response.write(body[start : start + _PIECE_BYTES])
        await response.write_eof()
    return response
