"""Many deadlines, one alarm: the scheduler asks its driver for the earliest only.

Most entries mean nothing any more by their time (the transfer did not stall, the request met its
deadline). They are not searched for, but thrown away when they come to the front of the heap, so
that the driver is not woken for them, and all at once when the heap has doubled since the last
time, so that a deadline far off does not keep a request's timers long after its end.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

_SMALL = 64
"""Up to so many timers the heap is not looked through."""


class TimerKind(StrEnum):
    """What a timer is for."""

    DEADLINE = "deadline"
    ATTEMPT = "attempt"
    STALL = "stall"
    BACKOFF = "backoff"
    ENGINE_WAIT = "engine wait"
    LINK = "link"
    CUT = "cut"
    SLOW_LINE = "slow line"
    ADJUST = "adjust"


class Timer(NamedTuple):
    """``key``: a request id, or (source, target) of a line or of two machines."""

    at: float
    sequence: int
    kind: TimerKind
    key: str | tuple[str, str]
    attempt: int


class Timers:
    """A heap of `Timer`, first by time, then in the order they were set. ``is_stale`` says
    whether one means nothing any more."""

    def __init__(self, is_stale: Callable[[Timer], bool]) -> None:
        self._is_stale = is_stale
        self._heap: list[Timer] = []
        self._tidy_at = _SMALL
        self._sequence = 0
        self._armed = inf

    def add(self, at: float, kind: TimerKind, key: str | tuple[str, str], attempt: int = 0) -> None:
        """Set one, never to be taken back; an infinite time: none."""
        if at < inf:
            if len(self._heap) >= self._tidy_at:
                self._tidy()
            self._sequence += 1
            heappush(self._heap, Timer(at, self._sequence, kind, key, attempt))

    def pop_due(self, now: float) -> Timer | None:
        """The next timer that is due, or None."""
        if self._heap and self._heap[0].at <= now:
            return heappop(self._heap)
        return None

    def fired(self) -> None:
        """The driver's alarm has gone off: whatever remains must be asked for again."""
        self._armed = inf

    def alarm(self) -> float | None:
        """The time to ask the driver for, if that has changed to an earlier one."""
        heap = self._heap
        while heap and heap[0][0] < self._armed:
            if not self._is_stale(heap[0]):
                self._armed = heap[0].at
                return self._armed
            heappop(heap)
        return None

    def _tidy(self) -> None:
        """Throw away what means nothing any more."""
        self._heap = [timer for timer in self._heap if not self._is_stale(timer)]
        heapify(self._heap)
        self._tidy_at = max(_SMALL, 2 * len(self._heap))
