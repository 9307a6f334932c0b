"""Who holds a block, changed within the memory that there is for sets of holders.

Neighbouring blocks are mostly held alike, so sets are few. They are as many as blocks where
somebody means harm: what there is no room for is taken as absent.
"""

from __future__ import annotations

from prfaas.index.block_table import BlockTable
from prfaas.index.members import Members
from prfaas.index.open_table import Rows


class Holds:
    """Which holders each block has. ``bit`` and ``bits`` are those of one engine."""

    def __init__(self, table: BlockTable, members: Members) -> None:
        self._table, self._alive = table, members.alive

    def add_one(self, row: int, bit: int) -> int:
        """Another holder of a row: 1, or 0 where it is one already. -1 where there is no room; a
        row that nobody holds is gone then."""
        table = self._table
        mask = table.holders(row)
        if mask & bit:
            table.touch_one(row)
            return 0
        held = self._alive(mask) | bit
        if not table.holder_sets.has_room(held):
            self._let_go(row)
            return -1
        table.hold(row, held)
        table.touch_one(row)
        return 1

    def add(self, rows: Rows, bit: int) -> tuple[int, int]:
        """The same of several that follow each other: for how many, and how many there is no room
        for."""
        table, full = self._table, False

        def more(mask: int) -> int:
            nonlocal full
            if mask & bit:
                return mask
            held = self._alive(mask) | bit
            if table.holder_sets.has_room(held):
                return held
            full = True
            return mask

        added = table.hold_each(rows, more)
        lacking = [row for row in rows.tolist() if not table.holders(row) & bit] if full else []
        for row in reversed(lacking):
            self._let_go(row)
        return added, len(lacking)

    def drop(self, row: int, bits: int) -> int:
        """Holders of a row that are none any more; how many are to be counted as gone. Where there
        is no room for those that are left nobody holds it, and all are told so."""
        table = self._table
        mask = table.holders(row)
        left = self._alive(mask) & ~bits
        if table.holder_sets.has_room(left):
            table.hold(row, left)
            return (mask & bits).bit_count()
        table.evict(row)
        return 0

    def move(self, source: int, target: int, bits: int) -> int:
        """What an engine holds of one row it holds of the other; how many it holds no more."""
        table = self._table
        mask, more = self._alive(table.holders(source)), self._alive(table.holders(target))
        held = mask & bits
        if not held:
            return 0
        sets = table.holder_sets
        if not (sets.has_room(more | held) and sets.has_room(mask & ~held)):
            table.evict(source)
            return 0
        table.hold(target, more | held)
        table.hold(source, mask & ~held)
        return (held & more).bit_count()

    def _let_go(self, row: int) -> None:
        if not self._table.holders(row):
            self._table.hold(row, 0)
