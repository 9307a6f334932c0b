"""Simulated time: a heap of what happens next. Equal times: lower priority number, then first set.

Failures and line changes come before work that ends at the same instant, alarms after it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any

PRIORITY_FAULT, PRIORITY_WORK, PRIORITY_ALARM = 0, 1, 2

Entry = tuple[float, int, int, Callable[[Any], None], Any]


class Clock:
    """``now`` in seconds; entries run in the order (time, priority, sequence)."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[Entry] = []
        self._sequence = 0

    def at(
        self,
        time: float,
        action: Callable[[Any], None],
        argument: Any,
        priority: int = PRIORITY_WORK,
    ) -> None:
        """Call ``action(argument)`` at ``time``."""
        self._sequence += 1
        heappush(self._heap, (time, priority, self._sequence, action, argument))

    @property
    def events(self) -> int:
        """Entries that were ever set."""
        return self._sequence

    @property
    def next_at(self) -> float:
        """Time of the earliest entry; infinite if there is none."""
        return self._heap[0][0] if self._heap else inf

    def run_next(self) -> None:
        """Go to the earliest entry and run it."""
        self.now, _, _, action, argument = heappop(self._heap)
        action(argument)
