"""Accepts connections and finds out who they are: one thread for all of them.

A connection has `handshake_timeout_s` to say who it is. When too many wait, the oldest goes, of the
newcomer's own network where that has many: so thousands of half-open connections, and thousands of
new ones each second, cannot keep a real peer out whose handshake takes several round trips.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError, PeerError
from prfaas.core.once_a_second import OnceASecond
from prfaas.link.protocol.frames import Hello, Kind, Welcome, control
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.link.tcp.pending_connection import (
    PendingConnection,
    Reader,
    TurnedAway,
    kind_of,
    reject,
)
from prfaas.link.tcp.socket_options import tune
from prfaas.link.tcp.waiting import Wakeup
from prfaas.listening.crowd import Crowd
from prfaas.listening.listener import Listener

log = logging.getLogger(__name__)

_ACCEPT_PAUSE_S = 0.1
"""While no descriptor is free and nobody is pending who could give one back."""
_ACCEPT_AT_ONCE = 64
"""Then those that have something to say have their turn."""
_STEPS_AT_ONCE = 16
"""Of handshakes, for each network: one takes as long as four strangers take to come in, and while
those wait in the kernel's queue so do peers."""
_BACKLOG = 4096
"""Connections the kernel keeps for us: those of many peers that come back at once."""


class Others(Protocol):
    """Whoever serves connections of another protocol that come to the same port."""

    def give(self, sock: socket.socket, peer: Any) -> bool: ...


class ServerTls(Protocol):
    """What an acceptor needs of `LiveTls`."""

    @property
    def server(self) -> ssl.SSLContext: ...

    def check_peer(self, sock: ssl.SSLSocket, agent: str) -> None: ...


class Acceptor(threading.Thread):
    """Accepts, authenticates and hands over with ``admit``, which may raise PeerError.

    ``address`` is where it listens, ``turned_away`` counts refused connections by cause.
    ``listener``: where connections come from, else the configured address. ``give_away`` may take a
    connection off our hands, with its host and port, before anything of it is read. ``others`` get
    those that are not for the KV link, likewise unread; without them none are told apart. ``lines``
    of the log are those of all who turn connections away at this door.
    """

    def __init__(
        self,
        config: TcpLinkConfig,
        incarnation: int,
        admit: Callable[[Channel, Hello], None],
        *,
        tls: ServerTls | None,
        listener: Listener | None = None,
        give_away: Callable[[socket.socket, str, int], bool] | None = None,
        others: Others | None = None,
        lines: OnceASecond | None = None,
    ) -> None:
        super().__init__(name="kv-link-acceptor", daemon=True)
        self.turned_away: Counter[str] = Counter()
        self._config, self._incarnation, self._admit = config, incarnation, admit
        self.accept_from = config.accept_from
        """See `TcpLinkConfig`; may be set to another value at any time."""
        self._tls = tls
        self._lines = lines or OnceASecond()
        self._listener: Listener = listener or _listen(config.listen)
        self._give_away, self._others = give_away, others
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup.fd, selectors.EVENT_READ)
        self._pending = Crowd[PendingConnection]()
        self.address = str(Address(*self._listener.getsockname()[:2]))
        self._stopping = False
        self._reader = Reader()

    @property
    def pending(self) -> int:
        """Connections that have not yet said who they are."""
        return len(self._pending.all)

    def stop(self) -> None:
        """Listen no more and drop what is pending; join afterwards."""
        self._stopping = True
        self._wakeup.set()

    def tick(self, *, now: float) -> None:
        """Cut off who takes all of its time. From another thread, every few hundredths of a second;
        harmless once it has stopped."""
        self._reader.look()

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            self._serve_ready()
            self._expire(time.monotonic())
        for connection in list(self._pending.all):
            self._drop(connection)
        self._selector.close()
        self._listener.close()
        self._wakeup.close()
        self._reader.close()

    def _serve_ready(self) -> None:
        had: Counter[str] = Counter()
        for key, _ in self._selector.select(timeout=1.0):
            connection = key.data
            if key.fd == self._listener.fileno():
                self._accept()
            elif connection in self._pending.all:
                had[connection.network] += 1
                if had[connection.network] <= _STEPS_AT_ONCE:
                    self._readable(connection)
                if connection.is_cut:
                    had[connection.network] = _STEPS_AT_ONCE

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Whether there may be more."""
        try:
            sock, address = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            self.turned_away["accept"] += 1
            if self._lines.times("accept", time.monotonic()):
                log.warning("cannot accept a connection: %s", error, extra={"cause": "accept"})
            if not self._pending.all:  # out of descriptors: others may close some
                time.sleep(_ACCEPT_PAUSE_S)
            self._evict_oldest("overflow")
            return False
        if self._others is None and self._gives_away(sock, address):
            return True
        sock.setblocking(False)
        tls = None if self._tls is None else self._tls.server
        new = PendingConnection(
            sock, address, tls=tls, now=time.monotonic(), is_told=self._others is None
        )
        self._make_room(new.network)
        self._watch(new)
        return True

    def _gives_away(self, sock: socket.socket, address: Any) -> bool:
        if self._give_away is None or not self._give_away(sock, *address[:2]):
            return False
        sock.close()
        return True

    def _stays(self, connection: PendingConnection) -> bool:
        """Whether it is for the KV link and for nobody else to serve; False also where that cannot
        be told yet."""
        if connection.is_told:
            return True
        for_link = connection.is_for_link()
        if for_link is None:
            return False
        connection.is_told = True
        self._unwatch(connection)
        if not for_link:
            assert self._others is not None
            if not self._others.give(connection.socket, connection.peer):
                self.turned_away["overflow"] += 1
        elif not self._gives_away(connection.socket, connection.peer):
            self._watch(connection)
            return True
        return False

    def _readable(self, connection: PendingConnection) -> None:
        if connection.lingering:
            if connection.has_closed():
                self._drop(connection)
            return
        try:
            hello = self._reader.read(connection) if self._stays(connection) else None
            if hello is not None:
                self._hand_over(connection, hello)
        except Exception as error:
            # Nothing a stranger's bytes can provoke may end the thread that serves everyone.
            self._turn_away(connection, error)

    def _hand_over(self, connection: PendingConnection, hello: Hello) -> None:
        channel, config = connection.channel, self._config
        try:
            self._check(channel, hello)
            self._unwatch(connection)
            tune(
                channel.socket,
                dscp=config.dscp,
                congestion_control=None,
                dead_s=3 * config.keepalive_s,
            )
            welcome = Welcome(config.name, self._incarnation, config.max_chunk_bytes)
            channel.send([memoryview(control(Kind.WELCOME, welcome))])
            self._admit(channel, hello)
        except PeerError as error:
            reject(channel, str(error))
            raise

    def _check(self, channel: Channel, hello: Hello) -> None:
        """Raise PeerError unless it looks for us, is who it says, and may push to us."""
        config = self._config
        if hello.target != config.name:
            raise TurnedAway("name", f"looks for agent {hello.target!r}; this is {config.name!r}")
        if self._tls is not None and isinstance(channel.socket, ssl.SSLSocket):
            self._tls.check_peer(channel.socket, hello.name)
        accepted = self.accept_from
        if accepted is not None and hello.name not in accepted:
            raise TurnedAway("forbidden", f"agent {hello.name!r} may not push to this one")

    def _turn_away(self, connection: PendingConnection, error: Exception) -> None:
        kind = kind_of(error)
        self.turned_away[kind] += 1
        times = self._lines.times(kind, time.monotonic())
        if times:
            line = "turned away %s (%s, %d times): %s"
            log.warning(line, connection.address, kind, times, error, extra={"cause": kind})
        if not connection.linger():
            self._unwatch(connection)
        elif connection not in self._pending.all:
            self._watch(connection)

    def _expire(self, now: float) -> None:
        while self._pending.all:
            oldest = next(iter(self._pending.all))
            if now - oldest.since < self._config.handshake_timeout_s:
                return
            self._evict_oldest("timeout")

    def _make_room(self, network: str) -> None:
        """For one more: a network with more than its share pays for its newcomers itself, so that
        one that knocks thousands of times a second keeps nobody else out."""
        most = self._config.max_pending_connections
        if self.pending >= most:
            self._evict(self._pending.makes_room(network, most), "overflow")

    def _evict_oldest(self, kind: str) -> None:
        if self._pending.all:
            self._evict(next(iter(self._pending.all)), kind)

    def _evict(self, connection: PendingConnection, kind: str) -> None:
        if not connection.lingering:
            self.turned_away[kind] += 1
        self._drop(connection)

    def _watch(self, connection: PendingConnection) -> None:
        self._pending.add(connection, connection.network)
        self._selector.register(connection.fd, selectors.EVENT_READ, connection)

    def _unwatch(self, connection: PendingConnection) -> None:
        if self._pending.remove(connection, connection.network):
            self._selector.unregister(connection.fd)

    def _drop(self, connection: PendingConnection) -> None:
        self._unwatch(connection)
        connection.socket.close()


def _listen(address: str) -> socket.socket:
    host, port = parse_address(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(_BACKLOG)
            on_error.pop_all()
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener
