"""Pieces of work that somebody else has made for this process: one at a time, and of its time a
share."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

_REST_S = 0.005
"""Shorter rests are put together: the loop's clock is no finer."""


class Turns:
    """Does pieces in the order in which they came, each in a turn of the loop of its own.

    Args:
        share: of the time of this thread, above 0 and up to 1.
        clock: seconds that this thread has worked.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.thread_time) -> None:
        self._rest = 1 / share - 1
        self._clock = clock
        self._waiting: deque[Callable[[], None]] = deque()
        self._owed_s = self._clear_at = 0.0
        self._is_due = False

    def ask(self, piece: Callable[[], None]) -> None:
        """Have it done when its turn has come. What it raises ends nobody else's turns."""
        self._waiting.append(piece)
        self._await_next()

    def _await_next(self) -> None:
        if self._is_due or not self._waiting:
            return
        self._is_due = True
        loop = asyncio.get_running_loop()
        if self._clear_at > loop.time():
            loop.call_at(self._clear_at, self._do_next)
        else:
            loop.call_soon(self._do_next)

    def _do_next(self) -> None:
        began = self._clock()
        try:
            self._waiting.popleft()()
        finally:
            self._owed_s += (self._clock() - began) * self._rest
            if self._owed_s >= _REST_S:
                self._clear_at = asyncio.get_running_loop().time() + self._owed_s
                self._owed_s = 0.0
            self._is_due = False  # Not before: it may have asked for its next turn.
            self._await_next()
