"""A set of bytes kept as disjoint, sorted, merged ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class RangeSet:
    """Ranges [start, end) of integers. Adding in order costs O(1), out of order O(log n) plus a
    list insertion; ``len`` counts the ranges kept, which is what bounds its memory."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0

    def __len__(self) -> int:
        return len(self._starts)

    def covers(self, start: int, end: int) -> bool:
        """Is every byte of [start, end) in the set?"""
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and end <= self._ends[place]

    def overlaps(self, start: int, end: int) -> bool:
        """Is any byte of [start, end) in the set?"""
        place = bisect_left(self._starts, end) - 1
        return place >= 0 and self._ends[place] > start

    def add(self, start: int, end: int) -> None:
        """Add [start, end), which must not overlap the set."""
        if self.overlaps(start, end):
            raise ValueError(f"[{start}, {end}) is partly in the set")
        place = bisect_left(self._starts, start)
        joins_left = place > 0 and self._ends[place - 1] == start
        joins_right = place < len(self._starts) and self._starts[place] == end
        if joins_left and joins_right:
            self._ends[place - 1] = self._ends.pop(place)
            del self._starts[place]
        elif joins_left:
            self._ends[place - 1] = end
        elif joins_right:
            self._starts[place] = start
        else:
            self._starts.insert(place, start)
            self._ends.insert(place, end)
        self.total += end - start
