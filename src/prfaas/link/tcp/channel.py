"""A connected, non-blocking socket, plain or TLS, with one vocabulary for "not now"."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from typing import cast

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_MAX_BUFFERS = 64


class Channel:
    """Reads into and writes from the caller's memory; copies nothing."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        # With a buffer, read() returns a count, which typeshed does not know.
        self._tls_read = cast("Callable[[int, memoryview], int]", getattr(sock, "read", None))

    def recv_into(self, view: memoryview) -> int | None:
        """Bytes read; 0 when the peer has closed, None when nothing is there now."""
        if self._tls is None:
            try:
                return self.socket.recv_into(view)
            except BlockingIOError:
                return None
        # TLS gives a record (16 KiB) at a time: take all there are before anyone is told.
        read, length, done = self._tls_read, len(view), 0
        try:
            while done < length:
                count = read(length - done, view[done:])
                if not count:
                    break
                done += count
        except _WOULD_BLOCK:
            return done or None
        except ssl.SSLEOFError:
            pass
        return done

    def send(self, views: Sequence[memoryview]) -> int | None:
        """Bytes written, from the start of ``views``; None when nothing could be."""
        if self._tls is None:
            try:
                return self.socket.sendmsg(views[:_MAX_BUFFERS])
            except BlockingIOError:
                return None
        send, view, done = self._tls.send, views[0], 0
        try:
            while done < len(view):
                done += send(view[done:])
        except _WOULD_BLOCK:
            return done or None
        return done

    def hang_up(self) -> None:
        """End the connection from another thread; its own thread notices and closes."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close at once, without waiting for the peer's part of a TLS shutdown."""
        self.hang_up()
        self.socket.close()


def tune(sock: socket.socket, *, dscp: int, congestion_control: str | None, dead_s: float) -> None:
    """Socket options of a KV link connection; what the kernel lacks is left out."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _try(sock, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_s * 1000))
    if dscp:
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
            if sock.family == socket.AF_INET6
            else (socket.IPPROTO_IP, socket.IP_TOS)
        )
        _try(sock, level, option, dscp << 2)
    if congestion_control is not None:
        _try(sock, socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control.encode())


_PACED_SEGMENT_BYTES = 8960


def connect(host: str, port: int, *, timeout_s: float, paced: bool) -> socket.socket:
    """A TCP connection to the first of the host's addresses that answers. Raises OSError.

    ``paced``: the rate will be limited. The kernel sends at least two segments at a time; of the
    loopback interface's 64 KiB that would be a burst, so they are cut as on jumbo Ethernet.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        if paced:
            _try(sock, socket.IPPROTO_TCP, socket.TCP_MAXSEG, _PACED_SEGMENT_BYTES)
        sock.settimeout(timeout_s)
        try:
            sock.connect(where)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


_SO_MAX_PACING_RATE = 47
_TCP_NOTSENT_LOWAT = 25
_UNPACED = 2**64 - 1


def pace(sock: socket.socket, rate_bytes_per_s: float | None) -> None:
    """Let the kernel spread the packets of this connection (None: no limit)."""
    rate = _UNPACED if rate_bytes_per_s is None else int(rate_bytes_per_s)
    _try(sock, socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate.to_bytes(8, sys.byteorder))


def limit_unsent(sock: socket.socket, count: int) -> None:
    """Keep at most about ``count`` bytes in the kernel that have not been on the wire: what is
    in there can be overtaken by nothing."""
    _try(sock, socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, count)


def _try(sock: socket.socket, level: int, option: int, value: int | bytes) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(level, option, value)


class Wakeup:
    """Lets other threads end a connection thread's wait; harmless once closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            os.close(self.fd)
            self.fd = -1


class Waiter:
    """Waits for a channel to become ready, a wake-up from another thread, or the time."""

    def __init__(self, channel: Channel, wakeup: Wakeup) -> None:
        self._fd, self._wakeup = channel.socket.fileno(), wakeup
        self._poll = select.poll()
        self._poll.register(wakeup.fd, select.POLLIN)
        self._mask = 0

    def wait(self, *, read: bool, write: bool, timeout_s: float | None) -> bool:
        """True where there is something to read, or an error to be read."""
        mask = (select.POLLIN if read else 0) | (select.POLLOUT if write else 0)
        if mask != self._mask:
            self._poll.register(self._fd, mask)
            self._mask = mask
        # Rounded up: waking a little early would spin.
        milliseconds = None if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999))
        readable = False
        for fd, got in self._poll.poll(milliseconds):
            if fd != self._fd:
                self._wakeup.clear()
            elif got & ~select.POLLOUT:
                readable = True
        return readable
