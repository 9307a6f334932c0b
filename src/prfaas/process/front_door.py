"""An HTTP server that strangers can reach: what they may cost is bounded.

Every socket is accepted here, so that one that never ends its TLS handshake counts as well.
`http_handler.admit` is how an application says that a request has shown a right to be answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError
from prfaas.core.once_a_second import OnceASecond
from prfaas.listening.listener import Listener
from prfaas.process.accepting import Accepting
from prfaas.process.connections import Connection, Connections
from prfaas.process.descriptors import share_of_files
from prfaas.process.http_handler import NO_OTHERS, Others, StrangersHandler
from prfaas.process.lines import Lines
from prfaas.process.turns import Turns
from prfaas.tls.pace import SMALL_RECORDS_PER_S

logger = logging.getLogger(__name__)

Contexts = ssl.SSLContext | Callable[[], ssl.SSLContext] | None
"""What new connections are made with; a function is asked for each."""

_BACKLOG = 4096
_EXPIRE_S = 0.5
_STRANGER_S = 10.0
"""For a handshake and complete headers, each of which takes a client milliseconds."""
_IDLE_S = 75.0
"""How long a client's connection is kept for its next request."""
_HANDSHAKE_S = 10.0
_LINGER_S = 9.0
"""For the rest of a body that was refused, so that the client reads why."""
_LINE_BYTES = 8190
_HEADERS = 64
_MOST_STRANGERS = 2048
_STRANGERS_SHARE = 8
"""Of all descriptors that the process may have, strangers get this part at most."""
_FULL_PAUSE_S = 0.05
_SHARE = 1 / 8
"""Of this thread's time, for taking apart bodies in chunks of which nobody says who pays."""


def connections() -> Connections:
    """For one server of this process, by how many descriptors it may have."""
    most = share_of_files(_STRANGERS_SHARE, most=_MOST_STRANGERS)
    return Connections(most=most, stranger_s=_STRANGER_S, idle_s=_IDLE_S)


class _Door:
    def __init__(
        self,
        runner: web.AppRunner,
        book: Connections,
        tls: Contexts,
        what: str,
        others: Others = NO_OTHERS,
    ) -> None:
        self._runner, self.book, self._tls, self._what = runner, book, tls, what
        self._others = others
        self._listeners: Sequence[Listener] = ()
        self._accepting: list[Accepting] = []
        self._expiring: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._untouched: set[socket.socket] = set()
        """Accepted, and not yet the loop's."""
        self._turns, self._records = Turns(_SHARE), Lines(SMALL_RECORDS_PER_S)
        self._lines = OnceASecond()
        self._said: dict[str, int] = {}

    def open(self, listeners: Sequence[Listener]) -> Address:
        """Serve who comes there; they are its own from now on."""
        self._listeners = listeners
        for listener in listeners:
            self._accepting.append(
                Accepting(listener, self._came, self._cannot, pause_s=_FULL_PAUSE_S)
            )
        self._expiring = asyncio.ensure_future(self._expire())
        name = listeners[0].getsockname()
        return Address(name[0], name[1])

    def close(self) -> None:
        """Nobody comes in any more."""
        for accepting in self._accepting:
            accepting.stop()
        for listener in self._listeners:
            listener.close()
        if self._expiring is not None:
            self._expiring.cancel()
        for task in self._opening:
            task.cancel()

    async def end(self) -> None:
        """Requests under way come to their end, then connections do."""
        await asyncio.sleep(0)  # Whose handshake has just ended is a connection now.
        server = self._runner.server
        connections = [] if server is None else server.connections
        strangers = [known for known in connections if isinstance(known, StrangersHandler)]
        for known in strangers:
            known.end_if_idle()
        await self._runner.cleanup()
        for known in strangers:
            known.end_if_idle()

    def _cannot(self, error: OSError) -> None:
        # No descriptor is left, or the peer is gone already.
        self._say("accept", f"{self._what}: cannot accept: {error.strerror}")
        self.book.make_room()

    def _came(self, sock: socket.socket, address: Any) -> None:
        entry = self.book.came(str(address[0]), time.monotonic())
        self._untouched.add(sock)
        task = asyncio.ensure_future(self._open_one(sock, entry))
        entry.drop = task.cancel
        self._opening.add(task)
        task.add_done_callback(partial(self._opened, sock, entry))

    def _opened(self, sock: socket.socket, entry: Connection, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if sock in self._untouched:  # It was cancelled before it had begun.
            self._untouched.discard(sock)
            sock.close()
            self.book.gone(entry)

    async def _open_one(self, sock: socket.socket, entry: Connection) -> None:
        self._untouched.discard(sock)
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

    def _handler(self, entry: Connection) -> StrangersHandler:
        server = self._runner.server
        assert server is not None
        return StrangersHandler(
            server,
            self.book,
            entry,
            self._turns,
            self._records,
            self._others,
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


async def _listening(listen: str, *, what: str, shared: bool) -> list[socket.socket]:
    host, port = parse_address(listen, what=what)
    sockets: list[socket.socket] = []
    try:
        sockets = await bound(host, port, shared=shared)
        for listener in sockets:
            listener.listen(_BACKLOG)
    except OSError as error:
        for listener in sockets:
            listener.close()
        raise ConfigError(
            f"{what} {listen}: cannot listen there: {error.strerror or error}"
        ) from error
    return sockets


async def bound(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """A socket for each address that the name has. Other processes of this user may have the same
    port where all say ``shared``: the kernel spreads connections over those that listen. Raises
    OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(_bound(family, kind, protocol, address, shared=shared))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bound(family: int, kind: int, protocol: int, address: Any, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


@asynccontextmanager
async def serving_strangers(
    app: web.Application,
    listen: str | Listener,
    *,
    what: str,
    shutdown_timeout_s: float,
    tls: Contexts = None,
    book: Connections | None = None,
    others: Others = NO_OTHERS,
    shared: bool = False,
) -> AsyncIterator[str]:
    """Serve ``app`` at ``listen`` (``host:port``, port 0: a free one; or what stands for a socket
    that listens, and is closed then); yields its URL.

    A handler is cancelled when its client goes away. On leaving, requests under way have
    ``shutdown_timeout_s`` to end. Raises ConfigError for an address that is none or cannot be had.

    Args:
        what: names the address's setting.
        tls: its certificate may be exchanged while it serves: new connections get the new one.
        book: keeps the connections; a new one by default.
        others: take over connections that begin so.
        shared: other processes serve there as well; see `bound`.
    """
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=shutdown_timeout_s
    )
    await runner.setup()
    door = _Door(runner, book or connections(), tls, what, others)
    try:
        listeners: Sequence[Listener] = (
            [listen]
            if not isinstance(listen, str)
            else (await _listening(listen, what=what, shared=shared))
        )
        address = door.open(listeners)
        yield f"{'http' if tls is None else 'https'}://{address}"
    finally:
        door.close()
        await door.end()
