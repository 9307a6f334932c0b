"""An HTTP server that strangers can reach: what they may cost is bounded.

Every socket is accepted here, so that one that never ends its TLS handshake counts as well.
`admit` is how an application says that a request has shown a right to be answered.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from aiohttp import web

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError
from prfaas.core.once_a_second import OnceASecond
from prfaas.process.connections import Connection, Connections

logger = logging.getLogger(__name__)

CONNECT = b"CONNECT "
Tunnel = Callable[[bytes, asyncio.Transport, Callable[[BaseException | None], None]], None]
"""Takes over a connection whose first bytes (given) begin with `CONNECT`; calls the function when
it is lost."""
Contexts = ssl.SSLContext | Callable[[], ssl.SSLContext] | None
"""What new connections are made with; a function is asked for each."""

_BACKLOG = 1024
_EXPIRE_S = 0.5
_STRANGER_S = 10.0
"""For a handshake and complete headers, each of which takes a client milliseconds."""
_IDLE_S = 75.0
"""How long a client's connection is kept for its next request."""
_HANDSHAKE_S = 10.0
_LINGER_S = 2.0
"""For the rest of a body that was refused, so that the client reads why."""
_LINE_BYTES = 8190
_HEADERS = 64
_MOST_STRANGERS = 2048
_STRANGERS_SHARE = 8
"""Of all descriptors that the process may have, strangers get this part at most."""
_FULL_PAUSE_S = 0.05


def connections() -> Connections:
    """For one server of this process, by how many descriptors it may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_STRANGERS
    if soft != resource.RLIM_INFINITY:
        most = max(16, min(most, soft // _STRANGERS_SHARE))
    return Connections(most=most, stranger_s=_STRANGER_S, idle_s=_IDLE_S)


class _Handler(web.RequestHandler):
    """aiohttp's, which also knows its connection, and refuses in JSON."""

    __slots__ = ("_book", "_entry", "_tunnel")

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # Not for isinstance: uvloop's transports are asyncio's in all but their class.
        self._entry.drop = cast("asyncio.Transport", transport).abort
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        tunnel, self._tunnel = self._tunnel, None  # Only a connection's first request opens one.
        if tunnel is not None and data.startswith(CONNECT) and self.transport is not None:
            self._book.admitted(self._entry)
            tunnel(data, self.transport, self.connection_lost)
        else:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._book.gone(self._entry)
        super().connection_lost(exc)

    def admit(self) -> None:
        """See `admit`."""
        self._book.admitted(self._entry)

    def answered(self) -> None:
        """See `answered`."""
        self._book.answered(self._entry, time.monotonic())

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
    if isinstance(request.protocol, _Handler):
        request.protocol.admit()


def answered(request: web.Request) -> None:
    """The request is over, admitted or not; its connection may be used again."""
    if isinstance(request.protocol, _Handler):
        request.protocol.answered()


class _Door:
    def __init__(
        self,
        runner: web.AppRunner,
        book: Connections,
        tls: Contexts,
        what: str,
        tunnel: Tunnel | None = None,
    ) -> None:
        self._runner, self.book, self._tls, self._what = runner, book, tls, what
        self._tunnel = tunnel
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._lines = OnceASecond()
        self._said: dict[str, int] = {}

    async def open(self, host: str, port: int) -> Address:
        """Listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, kind, protocol, _, address in dict.fromkeys(found):
                self._listeners.append(_listener(family, kind, protocol, address))
        except OSError:
            self.close()
            raise
        for listener in self._listeners:
            self._run(self._accept(listener))
        self._run(self._expire())
        name = self._listeners[0].getsockname()
        return Address(name[0], name[1])

    def close(self) -> None:
        """Nobody comes in any more."""
        for task in (*self._tasks, *self._opening):
            task.cancel()
        for listener in self._listeners:
            listener.close()

    def _run(self, work: Any) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                # No descriptor is left, or the peer is gone already.
                self._say("accept", f"{self._what}: cannot accept: {error.strerror}")
                self.book.make_room()
                await asyncio.sleep(_FULL_PAUSE_S)
                continue
            entry = self.book.came(str(address[0]), time.monotonic())
            task = asyncio.ensure_future(self._open_one(sock, entry))
            entry.drop = task.cancel
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open_one(self, sock: socket.socket, entry: Connection) -> None:
        loop = asyncio.get_running_loop()
        options = {} if self._tls is None else {"ssl_handshake_timeout": _HANDSHAKE_S}
        try:
            # The loop owns the socket from here on and closes it, whatever happens.
            await loop.connect_accepted_socket(
                lambda: self._handler(entry),
                sock,
                ssl=self._tls() if callable(self._tls) else self._tls,
                **options,
            )
        except asyncio.CancelledError:
            self.book.gone(entry)
            raise
        except (OSError, ssl.SSLError):
            self.book.gone(entry)

    def _handler(self, entry: Connection) -> _Handler:
        server = self._runner.server
        assert server is not None
        return _Handler(
            server,
            self.book,
            entry,
            self._tunnel,
            loop=asyncio.get_running_loop(),
            access_log=None,
            keepalive_timeout=_IDLE_S,
            lingering_time=_LINGER_S,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            max_headers=_HEADERS,
        )

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_S)
            self.book.expire(time.monotonic())
            for why, count in self.book.dropped.items():
                new = count - self._said.get(why, 0)
                if new and why == "room":
                    self._say(
                        why,
                        f"{self._what}: {new} connections that had shown no right to ask were "
                        "closed for others",
                    )
                self._said[why] = count

    def _say(self, cause: str, line: str) -> None:
        if self._lines.times(cause, time.monotonic()):
            logger.warning("%s", line)


def _listener(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


@asynccontextmanager
async def serving_strangers(
    app: web.Application,
    listen: str,
    *,
    what: str,
    shutdown_timeout_s: float,
    tls: Contexts = None,
    book: Connections | None = None,
    tunnel: Tunnel | None = None,
) -> AsyncIterator[str]:
    """As `http_server.serving`, for an address that anybody can reach.

    Args:
        tls: its certificate may be exchanged while it serves: new connections get the new one.
        book: keeps the connections; a new one by default.
        tunnel: takes over connections that begin so.
    """
    host, port = parse_address(listen, what=what)
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=shutdown_timeout_s
    )
    await runner.setup()
    door = _Door(runner, book or connections(), tls, what, tunnel)
    try:
        try:
            address = await door.open(host, port)
        except OSError as error:
            raise ConfigError(
                f"{what} {listen}: cannot listen there: {error.strerror or error}"
            ) from error
        yield f"{'http' if tls is None else 'https'}://{address}"
    finally:
        door.close()
        await runner.cleanup()
