"""The listening side until a connection has said who it is: one thread for all of them.

A connection here costs a file descriptor and, once it has sent its first byte, a TLS object: never
a thread. It has `handshake_timeout_s` to finish; when too many wait, the oldest goes, so thousands
of half-open connections cannot keep a real peer out.
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
from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import (
    FrameReader,
    Hello,
    Kind,
    Welcome,
    control,
    decode,
    reason,
)
from prfaas.link.tcp.channel import Channel, Wakeup, tune
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.tls.context import check_identity, server_context
from prfaas.tls.files import TlsFiles

log = logging.getLogger(__name__)

_TLS_HANDSHAKE = 0x16
_ACCEPT_PAUSE_S = 0.1


class _PendingConnection:
    """A connection that has not said who it is."""

    def __init__(self, sock: socket.socket, address: str, now: float) -> None:
        self.socket, self.address, self.since = sock, address, now
        self.fd = sock.fileno()
        self.channel: Channel | None = None
        self.shaken = self.leaving = False
        self.reader = FrameReader(max_chunk_bytes=1)


class _TurnedAway(PeerError):
    """A connection that is turned away; ``kind`` is what it is counted as."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Acceptor(threading.Thread):
    """Accepts, authenticates and hands over with ``admit``. ``address`` is where it listens,
    ``turned_away`` counts by cause."""

    def __init__(
        self, config: TcpLinkConfig, incarnation: int, admit: Callable[[Channel, Hello], None]
    ) -> None:
        super().__init__(name="kv-link-door", daemon=True)
        self.turned_away: Counter[str] = Counter()
        self._config, self._incarnation, self._admit = config, incarnation, admit
        security = config.security
        self._tls = server_context(security) if isinstance(security, TlsFiles) else None
        self._listener = _listen(config.listen)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup.fd, selectors.EVENT_READ)
        self._visitors: OrderedDict[int, _PendingConnection] = OrderedDict()
        self.address = str(Address(*self._listener.getsockname()[:2]))
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Connections that have not yet said who they are."""
        return len(self._visitors)

    def stop(self) -> None:
        self._stopping = True
        self._wakeup.set()

    def run(self) -> None:
        while not self._stopping:
            for key, _ in self._selector.select(timeout=1.0):
                if key.fd == self._listener.fileno():
                    self._accept()
                elif key.fd in self._visitors:
                    self._attend(self._visitors[key.fd])
            self._expire(time.monotonic())
        for visitor in list(self._visitors.values()):
            self._forget(visitor)
            visitor.socket.close()
        self._selector.close()
        self._listener.close()
        self._wakeup.close()

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as error:
            self.turned_away["accept"] += 1
            log.warning("cannot accept a connection: %s", error)
            if not self._visitors:  # out of descriptors: others may close some
                time.sleep(_ACCEPT_PAUSE_S)
            self._evict_oldest("overflow")
            return
        sock.setblocking(False)
        if len(self._visitors) >= self._config.max_pending_connections:
            self._evict_oldest("overflow")
        self._remember(_PendingConnection(sock, f"{address[0]}:{address[1]}", time.monotonic()))

    def _attend(self, visitor: _PendingConnection) -> None:
        if visitor.leaving:
            self._see_off(visitor)
            return
        try:
            hello = self._listen_to(visitor)
            if hello is not None:
                self._let_in(visitor, hello)
        except Exception as error:
            # Nothing a stranger's bytes can provoke may end the thread that serves everyone.
            self._turn_away(visitor, error)

    def _listen_to(self, visitor: _PendingConnection) -> Hello | None:
        """Its Hello, once it is there and its identity is known."""
        if visitor.channel is None:
            try:
                first = visitor.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:  # the event was for an earlier owner of the descriptor
                return None
            visitor.channel = self._channel(visitor, first)
        channel = visitor.channel
        if isinstance(channel.socket, ssl.SSLSocket) and not visitor.shaken:
            try:
                channel.socket.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            visitor.shaken = True
        while True:
            count = channel.recv_into(visitor.reader.get_buffer())
            if count is None:
                return None
            if count == 0:
                raise _TurnedAway("closed", "closed before it said who it is")
            frame = visitor.reader.received(count)
            if frame is not None:
                if frame.header.kind is not Kind.HELLO:
                    raise _TurnedAway("protocol", "did not say who it is first")
                return decode(frame.body, Hello)

    def _channel(self, visitor: _PendingConnection, first: bytes) -> Channel:
        sock = visitor.socket
        if not first:
            raise _TurnedAway("closed", "closed before it said who it is")
        if self._tls is not None:
            if first[0] == _TLS_HANDSHAKE:
                wrapped = self._tls.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                visitor.socket = wrapped
                return Channel(wrapped)
            if first[0] == Kind.HELLO:
                _say(Channel(sock), "this agent requires TLS and was spoken to in plaintext")
                raise _TurnedAway("plaintext", "spoke plaintext to an agent that requires TLS")
        elif first[0] == Kind.HELLO:
            return Channel(sock)
        elif first[0] == _TLS_HANDSHAKE:
            raise _TurnedAway("tls", "spoke TLS to an agent that is configured for plaintext")
        raise _TurnedAway("unknown", "does not speak the KV link's protocol")

    def _let_in(self, visitor: _PendingConnection, hello: Hello) -> None:
        channel, config = visitor.channel, self._config
        assert channel is not None
        try:
            if hello.target != config.name:
                raise _TurnedAway(
                    "name", f"looks for agent {hello.target!r}; this is {config.name!r}"
                )
            if isinstance(channel.socket, ssl.SSLSocket):
                check_identity(channel.socket, hello.name)
            if config.accept_from is not None and hello.name not in config.accept_from:
                raise _TurnedAway("forbidden", f"agent {hello.name!r} may not push to this one")
            self._forget(visitor)
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
            _say(channel, str(error))
            raise

    def _turn_away(self, visitor: _PendingConnection, error: Exception) -> None:
        if isinstance(error, _TurnedAway):
            kind = error.kind
        elif isinstance(error, ssl.SSLError):
            kind = "certificate" if "CERTIFICATE" in (error.reason or "") else "handshake"
            if "alert" in str(error):
                kind = "refused-us"
        else:
            kind = "protocol" if isinstance(error, (PeerError, LinkError)) else "closed"
        self.turned_away[kind] += 1
        log.warning("turned away %s (%s): %s", visitor.address, kind, error)
        if visitor.socket.fileno() < 0:  # a failed wrap_socket() has closed it
            self._forget(visitor)
            return
        visitor.leaving = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(visitor.socket, socket.SHUT_WR)
        if visitor.fd not in self._visitors:
            self._remember(visitor)

    def _see_off(self, visitor: _PendingConnection) -> None:
        """Closing with unread bytes would destroy our last words (a TLS alert, a REJECT) on
        their way: wait until the other side has closed."""
        try:
            gone = not socket.socket.recv(visitor.socket, 65536)
        except BlockingIOError:
            return
        except OSError:
            gone = True
        if gone:
            self._forget(visitor)
            visitor.socket.close()

    def _expire(self, now: float) -> None:
        while self._visitors:
            oldest = next(iter(self._visitors.values()))
            if now - oldest.since < self._config.handshake_timeout_s:
                return
            self._evict_oldest("timeout")

    def _evict_oldest(self, kind: str) -> None:
        if self._visitors:
            visitor = next(iter(self._visitors.values()))
            if not visitor.leaving:
                self.turned_away[kind] += 1
            self._forget(visitor)
            visitor.socket.close()

    def _remember(self, visitor: _PendingConnection) -> None:
        self._visitors[visitor.fd] = visitor
        self._selector.register(visitor.fd, selectors.EVENT_READ)

    def _forget(self, visitor: _PendingConnection) -> None:
        if self._visitors.pop(visitor.fd, None) is not None:
            self._selector.unregister(visitor.fd)


def _say(channel: Channel, why: str) -> None:
    with contextlib.suppress(OSError):
        channel.send([memoryview(reason(Kind.REJECT, why))])


def _listen(address: str) -> socket.socket:
    host, port = parse_address(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1024)
            on_error.pop_all()
    except OSError as error:
        raise LinkError(f"cannot listen on {address}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener
