"""Stands for a listening socket where another thread accepts: one port may be of two protocols."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from typing import Any

from prfaas.core.addresses import Address

_MOST = 4096
"""That wait to be served, as in a kernel's queue; the next are closed."""


class GivenConnections:
    """Connections that somebody accepts for whoever serves them. `give` from any thread.

    Args:
        address: where they come to.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._waiting: deque[tuple[socket.socket, Any]] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    def give(self, sock: socket.socket, peer: Any) -> None:
        """This connection, of which nothing has been read, is theirs; ``peer``: its address."""
        with self._lock:
            if self._closed or len(self._waiting) >= _MOST:
                sock.close()
                return
            if not self._waiting:
                os.eventfd_write(self._event, 1)
            self._waiting.append((sock, peer))

    def fileno(self) -> int:
        """Is readable while there is one to accept."""
        return self._event

    def accept(self) -> tuple[socket.socket, Any]:
        """The next, as a socket that listens would give it. Raises BlockingIOError."""
        with self._lock:
            if not self._waiting:
                raise BlockingIOError
            found = self._waiting.popleft()
            if not self._waiting:
                os.eventfd_read(self._event)
            return found

    def getsockname(self) -> tuple[str, int]:
        """See `socket.socket`."""
        return self._address.host, self._address.port

    def close(self) -> None:
        """Also those that wait; what is given later is closed at once. Once more is nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for sock, _ in self._waiting:
                sock.close()
            self._waiting.clear()
            os.close(self._event)
