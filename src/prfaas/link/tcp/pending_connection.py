"""An incoming connection until it has said who it is: plaintext or TLS, its Hello, or why not.

It costs a file descriptor and, once it has sent its first byte, a TLS object: never a thread. All
calls are made by the `acceptor`'s thread and return at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from typing import Any

from prfaas.core.addresses import Address, network_of
from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import (
    FrameReader,
    Hello,
    Kind,
    OtherVersion,
    decode,
    reason,
)
from prfaas.link.tcp import first_message
from prfaas.link.tcp.channel import Carrier, Channel

_MOST_BYTES = 65536
"""Of a handshake: certificates are a few thousand. OpenSSL reads as long as something comes, and of
records of a byte it would for a tenth of a second and more, in which nobody else has a turn."""
_LONGEST_S = 0.2
"""Of the reading thread's own time: a handshake takes a few milliseconds of it; a hundred with the
longest RSA keys on a slow machine, and with whatever Python collects meanwhile."""
_CLIENT_HELLO, _HEADS = 1, 9
"""What a handshake begins with (section 4), and how long its head and its record's are together."""
_LINGER_BYTES = 65536
"""Thrown away at a time of what a refused connection still sends."""


class TurnedAway(PeerError):
    """A connection that is refused; ``kind`` is what it is counted as."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class PendingConnection:
    """``peer``: its address, as `accept` gives it. ``tls``: None where this agent is configured for
    plaintext. ``is_told``: it is known to be for the KV link."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Any,
        *,
        tls: ssl.SSLContext | None,
        now: float,
        is_told: bool = True,
    ) -> None:
        self.socket, self.peer, self.since, self.is_told = sock, peer, now, is_told
        self.address = str(Address(*peer[:2]))
        self.network = network_of(peer[0])
        """Whose it is, as far as its address tells."""
        self.fd = sock.fileno()
        self.lingering = self.is_cut = False
        self._tls = tls
        self._channel: Channel | None = None
        self._handshake_done = self._begun = self._is_torn = False
        self._handshake_bytes = 0
        self._wanted = 1
        """Bytes of its first message, before anybody can tell whose it is."""
        self._reader = FrameReader(max_chunk_bytes=1)

    @property
    def channel(self) -> Channel:
        """What its Hello came over."""
        assert self._channel is not None
        return self._channel

    def is_for_link(self) -> bool | None:
        """By its first message, of which nothing is taken out; None: not enough of it is there yet.
        Raises TurnedAway where it never will be, OSError."""
        try:
            seen = self.socket.recv(first_message.MOST_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        if len(seen) < self._wanted:  # Only its end wakes us before.
            raise TurnedAway("closed", "closed before it said who it is")
        told = first_message.is_for_link(seen)
        # What is looked at stays unread, and would wake us all the time.
        self._wanted = 1 if isinstance(told, bool) else told
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, self._wanted)
        return told if isinstance(told, bool) else None

    def read_hello(self) -> Hello | None:
        """Its Hello, once it is there. Raises TurnedAway, PeerError, OSError (ssl.SSLError)."""
        if self._channel is None:
            try:
                first = self.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:  # it was woken for nothing
                return None
            self._channel = self._open_channel(first)
        channel = self._channel
        if isinstance(channel.socket, ssl.SSLSocket) and not self._handshake_done:
            try:
                self._look_at_handshake()
                channel.socket.do_handshake()
            except BlockingIOError:
                return None
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return None
            self._handshake_done = True
        while True:
            count = channel.recv_into(self._reader.get_buffer())
            if count is None:
                return None
            if count == 0:
                raise TurnedAway("closed", "closed before it said who it is")
            try:
                frame = self._reader.received(count)
            except OtherVersion as error:
                reject(channel, str(error))
                raise TurnedAway("version", str(error)) from error
            if frame is not None:
                if frame.header.kind is not Kind.HELLO:
                    raise TurnedAway("protocol", "did not say who it is first")
                return decode(frame.body, Hello)

    def _open_channel(self, first: bytes) -> Channel:
        sock = self.socket
        if not first:
            raise TurnedAway("closed", "closed before it said who it is")
        if self._tls is not None:
            if first[0] == first_message.TLS_HANDSHAKE:
                wrapped = self._tls.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
                self.socket = wrapped
                return Channel(wrapped)
            if first[0] == Kind.HELLO:
                reject(Channel(sock), "this agent requires TLS and was spoken to in plaintext")
                raise TurnedAway("plaintext", "spoke plaintext to an agent that requires TLS")
        elif first[0] == Kind.HELLO:
            return Channel(sock)
        elif first[0] == first_message.TLS_HANDSHAKE:
            raise TurnedAway("tls", "spoke TLS to an agent that is configured for plaintext")
        raise TurnedAway("unknown", "does not speak the KV link's protocol")

    def _look_at_handshake(self) -> None:
        """Raise TurnedAway where what has come is more, or in smaller pieces, than any peer says,
        BlockingIOError where nothing has."""
        seen = socket.socket.recv(self.socket, _MOST_BYTES, socket.MSG_PEEK)
        self._handshake_bytes += len(seen)
        if not self._begun:
            self._begun, self._is_torn = True, not _begins_whole(seen)
            if len(seen) < _HEADS:
                return  # It may say no more.
        if self._is_torn:
            raise TurnedAway("handshake", "begins with less than a whole ClientHello in a record")
        if self._handshake_bytes >= _MOST_BYTES:
            raise TurnedAway("handshake", "its handshake is too long")

    def cut(self, ended: socket.socket) -> None:
        """Put one that has ended in its place, from another thread while it is read: whoever reads
        is at the end at once. After a shutdown all that has come would still be read, megabytes."""
        if self.socket.fileno() != self.fd:
            return  # Closed, or on its way into TLS: its number may be another's.
        self.is_cut = True
        os.dup2(ended.fileno(), self.fd, inheritable=False)

    def linger(self) -> bool:
        """Say no more and wait for the other side to close; False if the socket is closed already.

        Closing with unread bytes would destroy our last words (a TLS alert, a REJECT) on their way.
        """
        if self.is_cut:
            self.socket.close()
        if self.socket.fileno() < 0:  # a failed wrap_socket() has closed it
            return False
        self.lingering = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_WR)
        return True

    def has_closed(self) -> bool:
        """Has the other side closed? What it still sends is thrown away."""
        try:
            return not socket.socket.recv(self.socket, _LINGER_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True


class Reader:
    """Reads connections in one thread, one at a time; another cuts off who takes all of its time:
    in TLS 1.3 a peer may change its keys without end, and OpenSSL comes back when no more come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: PendingConnection | None = None
        self._clock, self._began_s = 0, 0.0
        self._ended, other = socket.socketpair()
        other.close()

    def read(self, connection: PendingConnection) -> Hello | None:
        """See `PendingConnection.read_hello`."""
        with self._lock:
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
            self._reads, self._began_s = connection, time.thread_time()
        try:
            return connection.read_hello()
        finally:
            with self._lock:
                self._reads = None
            if connection.is_cut:
                raise TurnedAway("handshake", "says without end what is nothing, as new keys")

    def look(self) -> None:
        """Cut off who is read for too long."""
        with self._lock:
            read = self._reads
            if read is None or read.is_cut:
                return
            if time.clock_gettime(self._clock) - self._began_s > _LONGEST_S:
                read.cut(self._ended)

    def close(self) -> None:
        """Nothing is read any more."""
        self._ended.close()


def _begins_whole(seen: bytes) -> bool:
    """Whether the first record has all of a ClientHello, as whoever has one sends it."""
    size, length = int.from_bytes(seen[3:5], "big"), int.from_bytes(seen[6:_HEADS], "big")
    return len(seen) >= _HEADS and seen[5] == _CLIENT_HELLO and size >= 4 + length


def reject(channel: Carrier, why: str) -> None:
    """Tell the other side why it is refused, as far as the socket takes it."""
    with contextlib.suppress(OSError):
        channel.send([memoryview(reason(Kind.REJECT, why))])


def kind_of(error: Exception) -> str:
    """What a connection that ended with ``error`` is counted as."""
    if isinstance(error, TurnedAway):
        return error.kind
    if isinstance(error, ssl.SSLError):
        if "alert" in str(error):
            return "refused-us"
        return "certificate" if "CERTIFICATE" in (error.reason or "") else "handshake"
    return "protocol" if isinstance(error, (PeerError, LinkError)) else "closed"
