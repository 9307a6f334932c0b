"""Where the bytes of a received transfer lie in the slots that its reception holds.

Theory of operation. A transfer is addressed flat, [0, total_bytes). From another agent, its bytes
lie in flat order in the reserved slots (`flat_extents`). From an engine on this machine they lie
wherever the engine put them (`Packing`).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from prfaas.core.errors import InvariantError
from prfaas.core.extents import Extent


class Copy(NamedTuple):
    """Arena offset to read, arena offset to write, length, in bytes."""

    source: int
    target: int
    length: int


def flat_extents(
    slots: Sequence[int], slot_bytes: int, flat_offset: int, length: int
) -> Iterator[Extent]:
    """A range of a transfer that fills ``slots`` in flat order, slot by slot.

    Raises ValueError for a negative offset or a length that is not positive, IndexError beyond
    the last slot.
    """
    if flat_offset < 0 or length <= 0:
        raise ValueError(f"[{flat_offset}, +{length}) is no range of a transfer")
    while length:
        index, inside = divmod(flat_offset, slot_bytes)
        part = min(length, slot_bytes - inside)
        yield Extent(flat_offset, slots[index] * slot_bytes + inside, part)
        flat_offset += part
        length -= part


class Packing:
    """The bytes of a local hand-off: in the slots its engine filled, and in the gaps of those.

    The gaps are always large enough, as the slots that a reception reserves together hold at least
    the transfer. No byte may be given twice.
    """

    def __init__(self, slots: list[int], slot_bytes: int) -> None:
        self._slots, self._slot_bytes = slots, slot_bytes
        self.extents: list[Extent] = []
        """In flat order."""

    def adopt(self, slot: int, extents: Sequence[Extent]) -> None:
        """The slot with these bytes is the reception's from now on."""
        self._slots.append(slot)
        for extent in extents:
            insort(self.extents, extent)

    def pack(self, extents: Sequence[Extent]) -> list[Copy]:
        """Place bytes from elsewhere in gaps; returns the copies to make, before they are read."""
        copies: list[Copy] = []
        gaps = self._gaps()
        gap_at, gap_end = next(gaps, (0, 0))
        for flat, arena, length in extents:
            done = 0
            while done < length:
                if gap_at == gap_end:
                    gap_at, gap_end = next(gaps)
                part = min(length - done, gap_end - gap_at)
                copies.append(Copy(arena + done, gap_at, part))
                insort(self.extents, Extent(flat + done, gap_at, part))
                done += part
                gap_at += part
        return copies

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Unused arena ranges [start, end) inside the slots, as of now."""
        used = deque(sorted((extent.arena_offset, extent.arena_end) for extent in self.extents))
        for slot in sorted(self._slots):
            position, end = slot * self._slot_bytes, (slot + 1) * self._slot_bytes
            while used and used[0][0] < end:
                start, stop = used.popleft()
                if position < start:
                    yield position, start
                position = stop
            if position < end:
                yield position, end

    def check_integrity(self, stored_bytes: int) -> None:
        """Raise InvariantError unless the bytes lie inside the slots, apart from each other."""
        if sum(extent.length for extent in self.extents) != stored_bytes:
            raise InvariantError("extents and stored ranges differ")
        in_arena = sorted(self.extents, key=lambda extent: extent.arena_offset)
        for extent, following in pairwise(in_arena):
            if extent.arena_end > following.arena_offset:
                raise InvariantError(f"{extent} and {following} share memory")
        for extent in in_arena:
            first = extent.arena_offset // self._slot_bytes
            last = (extent.arena_end - 1) // self._slot_bytes
            if first != last or first not in self._slots:
                raise InvariantError(f"{extent} lies outside the slots held")
