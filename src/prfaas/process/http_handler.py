"""One connection of an HTTP server that strangers can reach: what it has said, and may cost.

aiohttp bounds each line of a request; here its whole head is bounded, a reader that takes nothing
is known, and what is no HTTP gets an answer in JSON.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiohttp import web

from prfaas.process.connections import Connection, Connections

CONNECT = b"CONNECT "
Tunnel = Callable[
    [bytes, asyncio.Transport, Callable[[], None], Callable[[BaseException | None], None]], None
]
"""Takes over a connection whose first bytes (given) begin with `CONNECT`. Calls the one function
when it is known that this may be asked for: until then it is a stranger's. The other when it is
lost."""

_HEAD_BYTES = 32 * 1024
"""Of all headers of a request: thousands of strangers that send some cost little memory."""
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_BODY_S = 10.0
"""For the small ones that `read_body` is for."""


class StrangersHandler(web.RequestHandler):
    """aiohttp's, which also knows its connection, and refuses in JSON."""

    __slots__ = ("_book", "_entry", "_head_bytes", "_tunnel")

    def __init__(
        self,
        server: web.Server,
        book: Connections,
        entry: Connection,
        tunnel: Tunnel | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(server, **settings)
        self._book, self._entry, self._tunnel = book, entry, tunnel
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not for isinstance: uvloop's transports are asyncio's in all but their class.
        self._entry.drop = cast("asyncio.Transport", transport).abort
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        tunnel, self._tunnel = self._tunnel, None  # Only a connection's first request opens one.
        if tunnel is not None and data.startswith(CONNECT) and self.transport is not None:
            self.keep_alive(True)  # Or aiohttp ends it as a connection that asks for nothing.
            tunnel(data, self.transport, self.admit, self.connection_lost)
            return
        between = self._between_requests
        super().data_received(data)
        if not between or not self._between_requests:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > _HEAD_BYTES and self.transport is not None:
            self.transport.write(_HEAD_TOO_LARGE)
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._book.gone(self._entry)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._book.stuck(self._entry, time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._book.flows(self._entry)
        super().resume_writing()

    def admit(self) -> None:
        """See `admit`."""
        self._book.admitted(self._entry)

    def answered(self) -> None:
        """See `answered`."""
        self._book.answered(self._entry, time.monotonic())

    @property
    def _between_requests(self) -> bool:
        """Whether the next bytes are of a request's head."""
        return self._waiter is not None and not self._waiter.done()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send it. What aiohttp says of an ``Expect`` before any of ours is asked is an error in
        JSON as well."""
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = self.handle_error(request, resp.status, message="Expect may be 100-continue")
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is the client's mistake, and no news for an operator."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        said = " ".join((message or "this is no HTTP request").split())[:500]
        error = {"message": said, "type": "invalid_request_error", "param": None, "code": status}
        response = web.Response(
            status=status,
            body=msgspec.json.encode({"error": error}),
            content_type="application/json",
        )
        response.force_close()
        return response


def admit(request: web.Request) -> None:
    """Whoever sent this may ask for it: strangers do not push its connection out."""
    if isinstance(request.protocol, StrangersHandler):
        request.protocol.admit()


def answered(request: web.Request) -> None:
    """The request is over, admitted or not; its connection may be used again."""
    if isinstance(request.protocol, StrangersHandler):
        request.protocol.answered()


async def read_body(request: web.Request, *, most: int, within_s: float = _BODY_S) -> bytes:
    """A small one. Raises HTTPRequestEntityTooLarge; HTTPRequestTimeout for one without end."""
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for data in request.content.iter_any():
                body += data
                if len(body) > most:
                    raise web.HTTPRequestEntityTooLarge(most, len(body))
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body has not come in {within_s:g} s") from error
    return bytes(body)
