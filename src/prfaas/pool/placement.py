"""The memory of one transfer that is being received or read, as `pool.slots` keeps it.

Theory of operation. A transfer is addressed flat, [0, total_bytes). From another agent, its bytes
lie in flat order in the reserved slots and the link reports each stored range. From an engine on
this machine they lie wherever the engine put them: as *spans* (arena offset, flat offset, length).
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise

from prfaas.core.errors import InvariantError
from prfaas.core.ranges import RangeSet

Span = tuple[int, int, int]
"""(arena offset, flat offset, length) in bytes."""
Copy = tuple[int, int, int]
"""(arena offset to read, arena offset to write, length) in bytes."""


class Reception:
    """See `Pool.reserve`. ``readers`` counts open imports; ``dropped`` says why it is unwanted."""

    def __init__(
        self,
        *,
        total_bytes: int,
        slot_bytes: int,
        reserved: int,
        deadline: float,
        written_by_link: bool,
        slots: list[int],
    ) -> None:
        self.total_bytes, self.slot_bytes = total_bytes, slot_bytes
        self.reserved, self.deadline = reserved, deadline
        self.written_by_link = written_by_link
        self.slots = slots
        self.readers = 0
        self.dropped: str | None = None
        self.stored = RangeSet()
        self._flat_in_slots = written_by_link
        self._spans: list[tuple[int, int, int]] = []  # (flat, arena, length), in flat order

    @property
    def complete(self) -> bool:
        """Every byte is here and nobody writes any more."""
        return self.stored.total == self.total_bytes and not self.written_by_link

    @property
    def reclaimable(self) -> bool:
        return self.dropped is not None and self.readers == 0 and not self.written_by_link

    def locate(self, flat_offset: int, length: int) -> Iterator[tuple[int, int]]:
        """(arena offset, length) of a range of a remote reception, slot by slot, in flat order.

        Raises ValueError outside [0, total_bytes).
        """
        if flat_offset < 0 or length <= 0 or flat_offset + length > self.total_bytes:
            raise ValueError(f"[{flat_offset}, +{length}) outside transfer of {self.total_bytes}")
        while length:
            index, inside = divmod(flat_offset, self.slot_bytes)
            part = min(length, self.slot_bytes - inside)
            yield self.slots[index] * self.slot_bytes + inside, part
            flat_offset += part
            length -= part

    def spans(self) -> list[Span]:
        """Where the bytes of a complete reception lie, in flat order, neighbours merged."""
        if not self._flat_in_slots:
            return _merged((arena, flat, length) for flat, arena, length in self._spans)
        flat = 0
        found: list[Span] = []
        for arena, length in self.locate(0, self.total_bytes):
            found.append((arena, flat, length))
            flat += length
        return _merged(found)

    def uncovered(self, spans: Sequence[Span]) -> list[Span]:
        """Record ``spans`` as stored; returns the parts that were not stored before."""
        return [
            (arena + start - flat, start, end - start)
            for arena, flat, length in spans
            for start, end in self.stored.add(flat, flat + length)
        ]

    def adopt_slot(self, slot: int, spans: Sequence[Span]) -> None:
        """The slot with these bytes is the reception's from now on."""
        self.slots.append(slot)
        for arena, flat, length in spans:
            insort(self._spans, (flat, arena, length))

    def pack(self, spans: Sequence[Span]) -> list[Copy]:
        """Place bytes from elsewhere in the gaps of the slots held; returns the copies to make."""
        copies: list[Copy] = []
        gaps = self._gaps()
        gap_at, gap_end = next(gaps, (0, 0))
        placed: list[tuple[int, int, int]] = []
        for arena, flat, length in spans:
            while length:
                if gap_at == gap_end:
                    gap_at, gap_end = next(gaps)
                part = min(length, gap_end - gap_at)
                copies.append((arena, gap_at, part))
                placed.append((flat, gap_at, part))
                arena, flat, gap_at, length = (
                    arena + part,
                    flat + part,
                    gap_at + part,
                    length - part,
                )
        for item in placed:
            insort(self._spans, item)
        return copies

    def _gaps(self) -> Iterator[tuple[int, int]]:
        """Unused arena ranges [start, end) inside the slots held."""
        used = deque(sorted((arena, arena + length) for _, arena, length in self._spans))
        for slot in sorted(self.slots):
            position, end = slot * self.slot_bytes, (slot + 1) * self.slot_bytes
            while used and used[0][0] < end:
                start, stop = used.popleft()
                if position < start:
                    yield position, start
                position = stop
            if position < end:
                yield position, end

    def check_integrity(self) -> None:
        """Raise InvariantError unless the memory is inside the slots and covers what it says."""
        self.stored.check_integrity()
        if len(self.slots) > self.reserved or self.reserved * self.slot_bytes < self.total_bytes:
            raise InvariantError(f"{len(self.slots)} slots held, {self.reserved} reserved")
        if self._flat_in_slots:
            return
        if sum(length for _, _, length in self._spans) != self.stored.total:
            raise InvariantError("spans and stored ranges differ")
        used = sorted((arena, length) for _, arena, length in self._spans)
        for (arena, length), (following, _) in pairwise(used):
            if arena + length > following:
                raise InvariantError(f"two spans share arena byte {following}")
        for arena, length in used:
            first, last = arena // self.slot_bytes, (arena + length - 1) // self.slot_bytes
            if first != last or first not in self.slots:
                raise InvariantError(f"span at arena byte {arena} lies outside the slots held")


def _merged(spans: Iterator[Span] | list[Span]) -> list[Span]:
    merged: list[Span] = []
    for arena, flat, length in spans:
        if merged and merged[-1][0] + merged[-1][2] == arena:
            first_arena, first_flat, so_far = merged[-1]
            merged[-1] = (first_arena, first_flat, so_far + length)
        else:
            merged.append((arena, flat, length))
    return merged
