"""The one shape of a byte range of a transfer, from the connector's hook to the scatter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Extent(NamedTuple):
    """``length`` bytes of a transfer's flat space from ``flat_offset`` on lie in the arena from
    ``arena_offset`` on. Bytes, all three; extents sort in flat order."""

    flat_offset: int
    arena_offset: int
    length: int

    @property
    def flat_end(self) -> int:
        """One past the last flat offset."""
        return self.flat_offset + self.length

    @property
    def arena_end(self) -> int:
        """One past the last arena offset."""
        return self.arena_offset + self.length

    def part(self, start: int, end: int) -> Extent:
        """The flat range [start, end), which must lie inside."""
        return Extent(start, self.arena_offset + start - self.flat_offset, end - start)


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """The same bytes in the same order, with neighbours in both spaces joined."""
    found: list[Extent] = []
    for extent in extents:
        if found:
            last = found[-1]
            if (last.flat_end, last.arena_end) == (extent.flat_offset, extent.arena_offset):
                found[-1] = Extent(last.flat_offset, last.arena_offset, last.length + extent.length)
                continue
        found.append(extent)
    return found
