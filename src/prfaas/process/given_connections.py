"""Stands for a listening socket where another thread accepts: one port may be of two protocols."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any, NamedTuple

from prfaas.core.addresses import Address, network_of
from prfaas.listening.crowd import Crowd
from prfaas.process.descriptors import share_of_files

_MOST = 2048
"""That wait to be served."""
_SHARE_OF_FILES = 8
"""Of all descriptors that the process may have, those that wait get this part at most."""


class _Given(NamedTuple):
    sock: socket.socket
    peer: Any
    network: str


class GivenConnections:
    """Connections that somebody accepts for whoever serves them. `give` from any thread.

    Where too many wait the oldest goes, of the newcomer's own network where that has many: a
    kernel's queue would have those that find no room ask again, here they are accepted already.

    Args:
        address: where they come to.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._most = share_of_files(_SHARE_OF_FILES, most=_MOST)
        self._waiting = Crowd[_Given]()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    def give(self, sock: socket.socket, peer: Any) -> bool:
        """This connection, of which nothing has been read, is theirs; ``peer``: its address. False
        where another one had to go for it."""
        with self._lock:
            if self._closed:
                sock.close()
                return True
            given, waiting = _Given(sock, peer, network_of(peer[0])), self._waiting
            if not waiting.all:
                os.eventfd_write(self._event, 1)
            full = len(waiting.all) >= self._most
            if full:
                gone = waiting.makes_room(given.network, self._most)
                waiting.remove(gone, gone.network)
                gone.sock.close()
            waiting.add(given, given.network)
            return not full

    def fileno(self) -> int:
        """Is readable while there is one to accept."""
        return self._event

    def accept(self) -> tuple[socket.socket, Any]:
        """The next, as a socket that listens would give it. Raises BlockingIOError."""
        with self._lock:
            waiting = self._waiting
            if not waiting.all:
                raise BlockingIOError
            given = next(iter(waiting.all))
            waiting.remove(given, given.network)
            if not waiting.all:
                os.eventfd_read(self._event)
            return given.sock, given.peer

    def getsockname(self) -> tuple[str, int]:
        """See `socket.socket`."""
        return self._address.host, self._address.port

    def close(self) -> None:
        """Also those that wait; what is given later is closed at once. Once more is nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for given in self._waiting.all:
                given.sock.close()
            self._waiting = Crowd()
            os.close(self._event)
