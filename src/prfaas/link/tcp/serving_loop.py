"""One thread that serves all connections which link workers carry.

Theory of operation. What such a connection costs the agent is a few short system calls a chunk.
Each lets go of the interpreter's lock, and where another thread waits for the lock it is taken:
with a thread for each connection, every call is a change of threads. Twelve threads that answer
twelve processes did 50,000 round trips a second on 16 cores, at 46 us of CPU each; one thread
with one `poll` over the same twelve did 196,000, at 5 us.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Generator

from prfaas.core.errors import LinkError
from prfaas.link.tcp.waiting import Wakeup

Turns = Generator[float, bool, None]
"""A connection's work between its waits. Yields until when it waits (by the monotonic clock); is
sent whether its pipe has something to read."""

_LONGEST_S = 1.0
"""The longest wait: what nobody was woken for is seen by then."""


class _Served:
    def __init__(self, turns: Turns, fd: int, wakeup: Wakeup) -> None:
        self.turns, self.fd, self.wakeup = turns, fd, wakeup
        self.wake_at = 0.0
        self.readable = self.awake = False
        self.over = threading.Event()
        self.error: BaseException | None = None


class ServingLoop:
    """Its thread starts with the first connection and ends with `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: dict[int, _Served] = {}
        self._waking: dict[int, _Served] = {}
        self._poll = select.poll()
        self._news = Wakeup()
        self._poll.register(self._news.fd, select.POLLIN)
        self._thread: threading.Thread | None = None
        self._closed = False

    def serve(self, turns: Turns, fd: int, wakeup: Wakeup) -> None:
        """Returns when ``turns`` has ended; raises what it raises. ``fd``: what it reads from."""
        served = _Served(turns, fd, wakeup)
        with self._lock:
            if self._closed:
                raise LinkError("the link is closed")
            self._served[fd] = self._waking[wakeup.fd] = served
            self._poll.register(fd, select.POLLIN)
            self._poll.register(wakeup.fd, select.POLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kv-link-loop", daemon=True)
                self._thread.start()
        self._news.set()
        served.over.wait()
        if served.error is not None:
            raise served.error

    def close(self) -> None:
        """The thread ends. What is still served raises LinkError, as what comes later does."""
        with self._lock:
            self._closed = True
        self._news.set()
        if self._thread is not None:
            self._thread.join()
        self._news.close()
        for served in list(self._served.values()):
            served.error = LinkError("the link is closed")
            self._end(served)

    def _run(self) -> None:
        while not self._closed:
            with self._lock:
                all_served = list(self._served.values())
            self._await(all_served)
            now = time.monotonic()
            for served in all_served:
                if served.readable or served.awake or now >= served.wake_at:
                    self._advance(served)

    def _await(self, all_served: list[_Served]) -> None:
        wake_at = min((served.wake_at for served in all_served), default=math.inf)
        left_s = min(max(wake_at - time.monotonic(), 0.0), _LONGEST_S)
        # Rounded up: waking a little early would spin.
        for fd, _ in self._poll.poll(int(left_s * 1000 + 0.999)):
            if (served := self._served.get(fd)) is not None:
                served.readable = True
            elif (served := self._waking.get(fd)) is not None:
                served.wakeup.clear()
                served.awake = True
            else:
                self._news.clear()

    def _advance(self, served: _Served) -> None:
        readable, served.readable, served.awake = served.readable, False, False
        try:
            if served.wake_at:
                served.wake_at = served.turns.send(readable)
            else:
                served.wake_at = next(served.turns)
            return
        except StopIteration:
            pass
        except BaseException as error:  # The connection's own thread deals with it.
            served.error = error
        self._end(served)

    def _end(self, served: _Served) -> None:
        with self._lock:
            del self._served[served.fd], self._waking[served.wakeup.fd]
            self._poll.unregister(served.fd)
            self._poll.unregister(served.wakeup.fd)
        served.over.set()
