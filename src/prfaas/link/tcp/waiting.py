"""How a connection's thread waits: for its socket, for another thread, or for the time."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import Protocol


class Awaited(Protocol):
    """A `Channel`, or what stands for one."""

    polls_writes: bool

    def fileno(self) -> int:
        """What to wait for."""
        ...


class Wakeup:
    """Lets other threads end a connection thread's wait; harmless once closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        """End the wait, or the next one."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """The wait has ended."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Later calls of `set` do nothing."""
        with self._lock:
            os.close(self.fd)
            self.fd = -1


class Waiter:
    """Waits for a channel to become ready, a wake-up from another thread, or the time."""

    def __init__(self, channel: Awaited, wakeup: Wakeup) -> None:
        self._fd, self._wakeup = channel.fileno(), wakeup
        self._polls_writes = channel.polls_writes
        self._poll = select.poll()
        self._poll.register(wakeup.fd, select.POLLIN)
        self._mask = 0

    def wait(self, *, read: bool, write: bool, timeout_s: float | None) -> bool:
        """True where there is something to read, or an error to be read."""
        mask = (select.POLLIN if read else 0) | (
            select.POLLOUT if write and self._polls_writes else 0
        )
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
