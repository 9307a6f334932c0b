"""A connected, non-blocking socket, plain or TLS, with one vocabulary for "not now"."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from prfaas.link.tcp.serving_loop import ServingLoop

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_MAX_BUFFERS = 64
"""Of one system call, far below the kernel's 1024: 64 chunks' worth is more than a socket takes."""


class Carrier(Protocol):
    """A connection, whoever carries its bytes."""

    socket: socket.socket
    polls_writes: bool

    @property
    def loop(self) -> ServingLoop | None: ...

    def fileno(self) -> int: ...

    def recv_into(self, view: memoryview) -> int | None: ...

    def send(self, views: Sequence[memoryview]) -> int | None: ...

    def hang_up(self) -> None: ...

    def surplus(self) -> bool: ...

    def close(self) -> None: ...


class Channel:
    """Reads into and writes from the caller's memory; copies nothing."""

    polls_writes = True
    """Whether its descriptor says when more can be written."""
    loop: ServingLoop | None = None
    """Who serves it; None: a thread of its own."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        # With a buffer, read() returns a count, which typeshed does not know.
        self._tls_read = cast("Callable[[int, memoryview], int]", getattr(sock, "read", None))

    def fileno(self) -> int:
        """What to wait for."""
        return self.socket.fileno()

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

    def surplus(self) -> bool:
        """Whether another process should carry it, once there is one."""
        return True

    def hang_up(self) -> None:
        """End the connection from another thread; its own thread notices and closes."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close at once, without waiting for the peer's part of a TLS shutdown."""
        self.hang_up()
        self.socket.close()


def is_own(carrier: Carrier) -> bool:
    """Whether its bytes pass through this process."""
    return isinstance(carrier, Channel)
