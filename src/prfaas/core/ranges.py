"""A set of byte ranges that grows.

Theory of operation. Disjoint, non-touching half-open ranges are kept in order as two lists of
starts and ends, so a question is a bisection. A transfer has few ranges at a time (one per layer
that is being filled), so insertion into a list is cheap.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from prfaas.core.errors import InvariantError


class RangeSet:
    """Ranges [start, end) of non-negative integers."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0

    def __len__(self) -> int:
        """Ranges kept, which is what bounds the memory."""
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def covers(self, start: int, end: int) -> bool:
        """Is every integer of [start, end) in the set?"""
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and end <= self._ends[place]

    def overlaps(self, start: int, end: int) -> bool:
        """Is any integer of [start, end) in the set?"""
        place = bisect_left(self._starts, end) - 1
        return place >= 0 and self._ends[place] > start

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add [start, end); returns the parts of it that were not in the set, in order."""
        if not 0 <= start < end:
            raise ValueError(f"[{start}, {end}) is no range")
        first = bisect_left(self._ends, start)  # first range that touches or follows
        last = bisect_right(self._starts, end)  # one past the last that touches or precedes
        new: list[tuple[int, int]] = []
        position = start
        for i in range(first, last):
            if position < self._starts[i]:
                new.append((position, self._starts[i]))
            position = max(position, self._ends[i])
        if position < end:
            new.append((position, end))
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.total += sum(e - s for s, e in new)
        return new

    def check_integrity(self) -> None:
        """Raise InvariantError unless the ranges are ordered, disjoint and counted right."""
        position = -1
        for start, end in self:
            if not position < start < end:
                raise InvariantError(f"ranges out of order at [{start}, {end})")
            position = end
        if self.total != sum(end - start for start, end in self):
            raise InvariantError(f"range total {self.total} is wrong")
