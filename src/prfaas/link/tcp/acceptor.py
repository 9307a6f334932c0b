"""Accepts connections and finds out who they are: one thread for all of them.

A connection has `handshake_timeout_s` to say who it is; when too many wait, the oldest goes, so
thousands of half-open connections cannot keep a real peer out.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError, PeerError
from prfaas.link.protocol.frames import Hello, Kind, Welcome, control
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.link.tcp.pending_connection import PendingConnection, TurnedAway, kind_of, reject
from prfaas.link.tcp.socket_options import tune
from prfaas.link.tcp.waiting import Wakeup
from prfaas.tls.context import check_identity, server_context
from prfaas.tls.files import TlsFiles

log = logging.getLogger(__name__)

_ACCEPT_PAUSE_S = 0.1
"""While no descriptor is free and nobody is pending who could give one back."""
_BACKLOG = 1024
"""Connections the kernel keeps for us: those of many peers that come back at once."""


class Acceptor(threading.Thread):
    """Accepts, authenticates and hands over with ``admit``, which may raise PeerError.

    ``address`` is where it listens, ``turned_away`` counts refused connections by cause.
    """

    def __init__(
        self, config: TcpLinkConfig, incarnation: int, admit: Callable[[Channel, Hello], None]
    ) -> None:
        super().__init__(name="kv-link-acceptor", daemon=True)
        self.turned_away: Counter[str] = Counter()
        self._config, self._incarnation, self._admit = config, incarnation, admit
        self.accept_from = config.accept_from
        """See `TcpLinkConfig`; may be set to another value at any time."""
        security = config.security
        self._tls = server_context(security) if isinstance(security, TlsFiles) else None
        self._listener = _listen(config.listen)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup.fd, selectors.EVENT_READ)
        self._pending: OrderedDict[int, PendingConnection] = OrderedDict()
        """By descriptor, the oldest first."""
        self.address = str(Address(*self._listener.getsockname()[:2]))
        self._stopping = False

    @property
    def pending(self) -> int:
        """Connections that have not yet said who they are."""
        return len(self._pending)

    def stop(self) -> None:
        """Listen no more and drop what is pending; join afterwards."""
        self._stopping = True
        self._wakeup.set()

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping:
            for key, _ in self._selector.select(timeout=1.0):
                if key.fd == self._listener.fileno():
                    self._accept()
                elif key.fd in self._pending:
                    self._readable(self._pending[key.fd])
            self._expire(time.monotonic())
        for connection in list(self._pending.values()):
            self._drop(connection)
        self._selector.close()
        self._listener.close()
        self._wakeup.close()

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as error:
            self.turned_away["accept"] += 1
            log.warning("cannot accept a connection: %s", error)
            if not self._pending:  # out of descriptors: others may close some
                time.sleep(_ACCEPT_PAUSE_S)
            self._evict_oldest("overflow")
            return
        sock.setblocking(False)
        if len(self._pending) >= self._config.max_pending_connections:
            self._evict_oldest("overflow")
        where = str(Address(*address[:2]))
        self._watch(PendingConnection(sock, where, tls=self._tls, now=time.monotonic()))

    def _readable(self, connection: PendingConnection) -> None:
        if connection.lingering:
            if connection.has_closed():
                self._drop(connection)
            return
        try:
            hello = connection.read_hello()
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
        if isinstance(channel.socket, ssl.SSLSocket):
            check_identity(channel.socket, hello.name)
        accepted = self.accept_from
        if accepted is not None and hello.name not in accepted:
            raise TurnedAway("forbidden", f"agent {hello.name!r} may not push to this one")

    def _turn_away(self, connection: PendingConnection, error: Exception) -> None:
        kind = kind_of(error)
        self.turned_away[kind] += 1
        log.warning("turned away %s (%s): %s", connection.address, kind, error)
        if not connection.linger():
            self._unwatch(connection)
        elif connection.fd not in self._pending:
            self._watch(connection)

    def _expire(self, now: float) -> None:
        while self._pending:
            oldest = next(iter(self._pending.values()))
            if now - oldest.since < self._config.handshake_timeout_s:
                return
            self._evict_oldest("timeout")

    def _evict_oldest(self, kind: str) -> None:
        if self._pending:
            oldest = next(iter(self._pending.values()))
            if not oldest.lingering:
                self.turned_away[kind] += 1
            self._drop(oldest)

    def _watch(self, connection: PendingConnection) -> None:
        self._pending[connection.fd] = connection
        self._selector.register(connection.fd, selectors.EVENT_READ)

    def _unwatch(self, connection: PendingConnection) -> None:
        if self._pending.pop(connection.fd, None) is not None:
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
