"""Every connection that comes to a listening socket is somebody's, also while that is closed.

A task that waits in `loop.sock_accept` may have been given a connection when it is cancelled, which
nobody closes then.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from prfaas.listening.listener import Listener


class Accepting:
    """Accepts on the running loop until it is stopped.

    Args:
        listener: bound, listening, and not blocking. Its owner closes it, after `stop`.
        came: owns what it is given: a connection that does not block, and its peer's address.
        failed: is told why one cannot be had, such as that no descriptor is left.
        pause_s: from then until the next is tried.
    """

    def __init__(
        self,
        listener: Listener,
        came: Callable[[socket.socket, Any], None],
        failed: Callable[[OSError], None],
        *,
        pause_s: float,
    ) -> None:
        self._listener, self._came, self._failed = listener, came, failed
        self._pause_s = pause_s
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def stop(self) -> None:
        """Nobody comes in any more."""
        if self._pause is None:
            self._loop.remove_reader(self._listener)
        else:
            self._pause.cancel()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return  # Another process has taken it.
        except OSError as error:
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(self._pause_s, self._listen)
            self._failed(error)
        else:
            sock.setblocking(False)
            self._came(sock, address)
