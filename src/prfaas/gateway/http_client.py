"""HTTP to engines and agents over kept connections, which may have gone stale.

Theory of operation. A server closes connections that were idle, or all of them when it restarts.
The client learns of it only when it uses one. Such a request was never looked at, so it is sent
again over a connection made for it; one that fails on a new connection is not. And where this
process itself has run out of something (descriptors, ports), the request waits a little: it is
nobody else's fault, and others give back what is missing as they end.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from functools import cache, partial
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from prfaas.core.addresses import parse_url
from prfaas.core.errors import PeerError
from prfaas.gateway.http_answer import Answer, CannotConnect, ConnectionBroke, Timeouts
from prfaas.gateway.http_connection import Connection
from prfaas.gateway.room import Room
from prfaas.gateway.tunnel import open_tunnel
from prfaas.gateway.upstream_errors import is_local
from prfaas.process.lines import Lines
from prfaas.tls.context import PeerContext, check_server
from prfaas.tls.pace import SMALL_RECORDS_PER_S
from prfaas.tls.records import tell_records

ENGINE_KEEPALIVE_S, AGENT_KEEPALIVE_S = 3.0, 60.0
"""vLLM's server closes a connection that was idle for 5 s: one used just then would be lost, and
its request with it. An agent's waits for 75 s."""
_MOST_ANSWERED = 1 << 30
"""Bytes of what the servers of one machine answer and is read whole: the features of an image take
a hundred times its own. A machine that was taken over has no more of this process's memory."""
_LOCAL_PATIENCE_S = 5.0
"""How long a request waits for what this process has run out of."""
_FIRST_PAUSE_S = 0.05
_PATH = re.compile(r"/[!-~]*")
_UNFIT = re.compile(r"[\0\r\n]")


class HttpClient:
    """Requests on the running event loop; `close` ends all connections that are free.
    ``keepalive_s``: how long one is kept that is not used."""

    def __init__(self, keepalive_s: float = ENGINE_KEEPALIVE_S) -> None:
        self._keepalive_s = keepalive_s
        self._peers: dict[tuple[str, ssl.SSLContext | None], Peer] = {}
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        """By the host of the machine; connections in use keep theirs."""
        self._lines = Lines(SMALL_RECORDS_PER_S)
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        path: str,
        *,
        data: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None = None,
        whose: str = "",
    ) -> Answer:
        """Send, and return when the response's head is here; use it as a context manager or close
        it.

        ``url``: ``scheme://host:port``; ``path``: all that follows, as it is sent; ``tls``: what
        is trusted, None: what this machine trusts; see `Credentials`; ``whose``: of what is read of
        a machine's servers the tenant that has most has the least right to more. Raises one of
        `CONNECTION_ERRORS`, ValueError for what cannot stand in a head.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _LOCAL_PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        peer = self._peer(url, tls)
        head = _head(method, peer.prefix + path, peer.host, headers or {}, data)
        while True:
            try:
                return await self._send(peer, head, data, timeouts, whose)
            except OSError as error:
                if not is_local(error) or loop.time() + pause_s > give_up_at:
                    raise
            await asyncio.sleep(pause_s)
            pause_s *= 2

    def forget(self, url: str) -> None:
        """End connections to a server that are free: nothing more is asked of it."""
        for key in [key for key in self._peers if key[0] == url]:
            self._peers.pop(key).close()

    async def close(self) -> None:
        """End all connections that are free; those in use end with their answers."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def _peer(self, url: str, tls: ssl.SSLContext | None) -> Peer:
        peer = self._peers.get((url, tls))
        if peer is None:
            host = (tls.address if isinstance(tls, PeerContext) else parse_url(url)).host
            room = self._rooms.get(host) or Room(_MOST_ANSWERED)
            self._rooms[host] = room
            keep = partial(self._keep, url, tls)
            comes_in_s = partial(self._lines.comes_in_s, whose=host)
            peer = self._peers[url, tls] = Peer(url, tls, keep, room, comes_in_s)
            if self._sweep is None:
                self._sweep_later()
        return peer

    def _keep(self, url: str, tls: ssl.SSLContext | None, connection: Connection) -> None:
        if self._closed:
            connection.abort()
            return
        connection.free_since = asyncio.get_running_loop().time()
        self._peer(url, tls).free.append(connection)

    async def _send(
        self, peer: Peer, head: bytes, data: bytes, timeouts: Timeouts, whose: str
    ) -> Answer:
        kept = peer.take(asyncio.get_running_loop().time() - self._keepalive_s)
        if kept is None:
            return await (await peer.dial(timeouts.connect_s)).ask(head, data, timeouts, whose)
        try:
            return await kept.ask(head, data, timeouts, whose)
        except ConnectionBroke as error:
            if not error.unseen:
                raise
            lost = error
        try:
            fresh = await peer.dial(timeouts.connect_s)
        except CannotConnect as error:
            if is_local(error):
                raise
            raise lost from error  # Nobody is there any more: it may have died of the request.
        return await fresh.ask(head, data, timeouts, whose)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(self._keepalive_s, self._expire)

    def _expire(self) -> None:
        idle_since = asyncio.get_running_loop().time() - self._keepalive_s
        for key, peer in list(self._peers.items()):
            peer.expire(idle_since)
            if not peer.free:
                del self._peers[key]
        self._sweep = None
        if self._peers:
            self._sweep_later()


class Peer:
    """A server, as it is dialled, with connections to it that are free: the last used first."""

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        on_free: Callable[[Connection], None],
        room: Room,
        comes_in_s: Callable[[int], float],
    ) -> None:
        self.address = parse_url(url)
        self.secure = url.startswith("https:")
        self.prefix = urlsplit(url).path.rstrip("/")
        default = self.address.port == (443 if self.secure else 80)
        self.host = str(self.address).rpartition(":")[0] if default else str(self.address)
        self._tls, self._on_free, self._room, self._comes_in_s = tls, on_free, room, comes_in_s
        self.free: list[Connection] = []

    def take(self, used_after: float) -> Connection | None:
        """One that was used after a time of the loop's clock, if there is one."""
        while self.free:
            connection = self.free.pop()
            if not connection.is_open:
                continue
            if connection.free_since > used_after:
                return connection
            connection.abort()
        return None

    def expire(self, used_before: float) -> None:
        """End those that have not been used for so long."""
        kept = []
        for connection in self.free:
            if connection.is_open and connection.free_since > used_before:
                kept.append(connection)
            elif connection.is_open:
                connection.abort()
        self.free = kept

    def close(self) -> None:
        """End all."""
        while self.free:
            connection = self.free.pop()
            if connection.is_open:
                connection.abort()

    def _make(self) -> Connection:
        return Connection(self._on_free, self._room, self._comes_in_s)

    async def dial(self, within_s: float) -> Connection:
        """A new one. Raises CannotConnect, TimeoutError, or PeerError where another than the agent
        that it is for is at its other end."""
        host, port = self.address
        try:
            async with asyncio.timeout(within_s):
                if isinstance(self._tls, PeerContext) and not self.secure:
                    return (await open_tunnel(self._make, self._tls, self.address))[1]
                loop = asyncio.get_running_loop()
                trust = (self._tls or _usual_trust()) if self.secure else None
                transport, connection = await loop.create_connection(
                    self._make, host, port, ssl=trust
                )
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise
            raise CannotConnect(host, port, error) from error
        if isinstance(self._tls, PeerContext):
            try:
                check_server(self._tls, transport)
            except PeerError:
                transport.abort()
                raise
        return connection


@cache
def _usual_trust() -> ssl.SSLContext:
    """Of this machine."""
    return tell_records(ssl.create_default_context())


def _head(method: str, path: str, host: str, headers: Mapping[str, str], data: bytes) -> bytes:
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if len(_UNFIT.findall(lines)) != 2 * len(headers):
        raise ValueError("a header has more than one line")
    length = f"Content-Length: {len(data)}\r\n" if data or method != "GET" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{lines}\r\n".encode()
