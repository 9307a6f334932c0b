"""Open addressing over columns: which row holds a 64-bit value. 4 bytes an entry and no objects.

Theory of operation. The table has a fixed size and holds row numbers (plus one: 0 is empty) at the
place that a row's value hashes to, or at the next free one (linear probing). The value itself lies
in a column that the caller owns, and must stay as it is while the row is in the table. Many are
looked up and added by array operations, one is removed at a time: what follows it is moved up, so
that no mark is left.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class OpenTable:
    """Holds at most ``capacity`` rows of the column ``values``. Several rows may have one value."""

    def __init__(self, values: NDArray[np.uint64], capacity: int) -> None:
        bits = max(3, (capacity * 3 // 2).bit_length())
        self._shift = 64 - bits
        self._last = (1 << bits) - 1
        self._rows = np.empty(1 << bits, np.uint32)
        self._rows.fill(0)  # All pages are there now: thousands of faults would be one long stall.
        self._row_at = self._rows.data
        self._values = values
        self._value_at = values.data

    def find(self, values: NDArray[np.uint64]) -> Rows:
        """A row with each value, -1 where there is none."""
        found = np.full(len(values), -1, np.int64)
        left = np.arange(len(values))
        at = self._homes(values)
        while len(left):
            rows = self._rows[at].astype(np.int64) - 1
            same = (rows >= 0) & (self._values[rows] == values[left])
            found[left[same]] = rows[same]
            on = (rows >= 0) & ~same
            left, at = left[on], (at[on] + 1) & self._last
        return found

    def find_one(self, value: int) -> int:
        """The same for one."""
        at = self._home(value)
        while row := self._row_at[at]:
            if self._value_at[row - 1] == value:
                return row - 1
            at = (at + 1) & self._last
        return -1

    def add(self, rows: Rows) -> None:
        """Rows that are not in the table, with their values in the column."""
        at = self._homes(self._values[rows])
        left = rows
        while len(left):
            free = self._rows[at] == 0
            self._rows[at[free]] = left[free] + 1
            lost = self._rows[at] != left + 1  # Taken before, or by another of these.
            left, at = left[lost], (at[lost] + 1) & self._last

    def add_one(self, row: int) -> None:
        """The same for one."""
        at = self._home(self._value_at[row])
        while self._row_at[at]:
            at = (at + 1) & self._last
        self._row_at[at] = row + 1

    def remove(self, row: int) -> None:
        """A row that is in the table."""
        hole = self._home(self._value_at[row])
        while self._row_at[hole] != row + 1:
            hole = (hole + 1) & self._last
        at = hole
        while True:
            at = (at + 1) & self._last
            follower = self._row_at[at]
            if not follower:
                break
            home = self._home(self._value_at[follower - 1])
            if (at - home) & self._last >= (at - hole) & self._last:
                self._row_at[hole] = follower
                hole = at
        self._row_at[hole] = 0

    def _homes(self, values: NDArray[np.uint64]) -> Rows:
        return ((values * np.uint64(_FACTOR)) >> np.uint64(self._shift)).astype(np.int64)

    def _home(self, value: int) -> int:
        return ((value * _FACTOR) & _MASK) >> self._shift
