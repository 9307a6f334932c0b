"""The blocks that are known: a tree of prefixes in columns, found by key and by engines' hash.

Theory of operation. Each block is a row: its key, the hash that engines call it by, its parent, how
many children and which holders it has. A row is there while somebody holds the block or one of its
descendants, so the ancestors of a block with a key are always there, and a prompt's blocks that are
known are a prefix of it. Blocks of which only a hash was announced have no key, parent or child.

Memory is bounded, and columns take none before they fill. Where rows run out, leaves go that were
not looked up for a while (the clock algorithm), then their parents: first what serves few prompts.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from prfaas.core.errors import InvariantError
from prfaas.index.free_rows import FreeRows
from prfaas.index.holder_sets import EMPTY, HolderSets
from prfaas.index.keys import Keys, Place
from prfaas.index.open_table import OpenTable, Rows
from prfaas.index.segments import segments

_USED, KEYED, _NAMED, _RECENT, _PINNED = 1, 2, 4, 8, 16
_WINDOW, _FREED_AT_ONCE = 8192, 1024
"""Rows that are looked at together in search of a leaf; that are let go in some milliseconds, where
a million may have been there for one block."""
NO_ROW, UNLIKE = -1, -2
"""UNLIKE: a row has half of that key; never by chance, only where somebody told wrong keys."""


class BlockTable:
    """At most ``max_blocks`` rows. ``on_evicted`` is told the holder set of each block that has to
    make room."""

    def __init__(
        self, max_blocks: int, sets: HolderSets, on_evicted: Callable[[int], None]
    ) -> None:
        self.max_blocks, self.blocks = max_blocks, 0
        self.holder_sets = sets
        self._on_evicted = on_evicted
        self._low, self._high = np.zeros(max_blocks, np.uint64), np.zeros(max_blocks, np.uint64)
        self._hash = np.zeros(max_blocks, np.uint64)
        self._parent = np.zeros(max_blocks, np.int32)
        self._children, self._depth = np.zeros(max_blocks, np.int32), np.zeros(max_blocks, np.int32)
        self.sets = np.zeros(max_blocks, np.uint32)
        """The holder set of each row."""
        self._flags = np.zeros(max_blocks, np.uint8)
        self._low_at, self._high_at = self._low.data, self._high.data
        self._parent_at, self._children_at = self._parent.data, self._children.data
        self._hash_at, self._depth_at = self._hash.data, self._depth.data
        self._set_at, self._flags_at = self.sets.data, self._flags.data
        self._by_key = OpenTable(self._low, max_blocks)
        self._by_hash = OpenTable(self._hash, max_blocks)
        self._free, self._hand = FreeRows(), 0
        self._unheld = array("I")
        """Rows at which `_free_unheld` has stopped."""

    # -- looking up -----------------------------------------------------------------------------

    def known(self, keys: Keys) -> Rows:
        """Rows of the first of these blocks, as far as they are known without a gap."""
        rows = self._by_key.find(keys.low)
        lost = np.flatnonzero((rows < 0) | (self._high[rows] != keys.high))
        return rows[: lost[0]] if len(lost) else rows

    def unlike(self, keys: Keys) -> int:
        """How many of these unknown blocks come before one with half the key of a known one."""
        taken = np.flatnonzero(self._by_key.find(keys.low) >= 0)
        return int(taken[0]) if len(taken) else len(keys.low)

    def at(self, place: Place) -> int:
        """The row of the block with which the prefix ends; NO_ROW, or `UNLIKE`."""
        row = self._by_key.find_one(place.low)
        return row if row == NO_ROW or self._high_at[row] == place.high else UNLIKE

    def named(self, block_hash: int) -> int:
        """The row whose hash that is, or NO_ROW."""
        return self._by_hash.find_one(block_hash)

    def taken(self, hashes: NDArray[np.uint64]) -> list[int]:
        """Positions of those that are a row's."""
        found: list[int] = np.flatnonzero(self._by_hash.find(hashes) >= 0).tolist()
        return found

    def has_key(self, row: int) -> bool:
        """Whether more than a hash is known of it."""
        return bool(self._flags_at[row] & KEYED)

    def is_called(self, rows: Rows, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which rows are found by these hashes."""
        called: NDArray[np.bool_] = self._hash[rows] == hashes
        return called & (self._flags[rows] & _NAMED > 0)

    def is_so_called(self, row: int, block_hash: int) -> bool:
        """The same for one."""
        return self._hash_at[row] == block_hash and bool(self._flags_at[row] & _NAMED)

    def place(self, row: int) -> Place:
        """Where the prefix that ends with this block ends."""
        return Place(self._low_at[row], self._high_at[row], self._depth_at[row])

    def holders(self, row: int) -> int:
        """Its holders, as bits."""
        return self.holder_sets.masks[self._set_at[row]]

    def touch_one(self, row: int) -> None:
        """This is of use."""
        self._flags_at[row] |= _RECENT

    def touch(self, rows: Rows) -> None:
        """These are."""
        self._flags[rows] |= _RECENT

    # -- changing -------------------------------------------------------------------------------

    def hold(self, row: int, mask: int) -> None:
        """Let the holders of a row be these. A leaf that nobody holds is gone."""
        old, new = self._set_at[row], self.holder_sets.number_of(mask)
        self.holder_sets.use(new, 1)
        self._set_at[row] = new
        self.holder_sets.use(old, -1)
        if not mask:
            self._free_unheld(row)

    def hold_each(self, rows: Rows, change: Callable[[int], int]) -> int:
        """Let the holders of each row be ``change`` of what they are; how many rows changed."""
        changed = 0
        for start, end, old in segments(self.sets[rows]):
            mask = self.holder_sets.masks[old]
            new_mask = change(mask)
            if new_mask != mask:
                new = self.holder_sets.number_of(new_mask)
                self.holder_sets.use(new, end - start)
                self.sets[rows[start:end]] = new
                self.holder_sets.use(old, start - end)
                changed += end - start
        return changed

    def add_named(self, block_hash: int) -> int:
        """A row of which only the hash is known, with no holders yet; NO_ROW without room."""
        if not self.make_room(1):
            return NO_ROW
        row = self._free.take_one()
        self.blocks += 1
        self.holder_sets.use(EMPTY, 1)
        self._parent_at[row], self._children_at[row] = NO_ROW, 0
        self._flags_at[row] = _USED | _RECENT | _NAMED
        self._hash_at[row] = block_hash
        self._by_hash.add_one(row)
        return row

    def add_block(self, parent: int, place: Place, block_hash: int) -> int:
        """The same for a block whose key is known, after the one in row ``parent`` (or NO_ROW), if
        no row has its key or its hash."""
        with self.pinned([parent]):
            row = self.add_named(block_hash)
        if row != NO_ROW:
            self._parent_at[row] = parent
            if parent != NO_ROW:
                self._children_at[parent] += 1
            self._low_at[row], self._high_at[row] = place.low, place.high
            self._depth_at[row] = place.depth
            self._by_key.add_one(row)
            self._flags_at[row] |= KEYED
        return row

    def add_chain(
        self,
        parent: int,
        depth: int,
        keys: Keys,
        hashes: NDArray[np.uint64],
        *,
        adopted: Sequence[tuple[int, int]],
        nameless: Sequence[int],
    ) -> Rows:
        """Rows for blocks that follow each other and the block in row ``parent`` (or NO_ROW), with
        no holders yet. `make_room` for them first.

        Args:
            depth: how many blocks are before the first.
            adopted: (position, row) of blocks that have a row already, without a key.
            nameless: positions of blocks whose hash is another row's.
        """
        count = len(hashes)
        rows = np.empty(count, np.int64)
        fresh = np.ones(count, np.bool_)
        for position, row in adopted:
            rows[position], fresh[position] = row, False
        new = rows[fresh] = self._free.take(count - len(adopted))
        self.blocks += len(new)
        self.holder_sets.use(EMPTY, len(new))
        self._children[rows] = 0
        self._low[rows], self._high[rows] = keys
        self._by_key.add(rows)
        self._depth[rows] = np.arange(depth + 1, depth + 1 + count)
        self._parent[rows[0]], self._parent[rows[1:]] = parent, rows[:-1]
        if parent != NO_ROW:
            self._children_at[parent] += 1
        self._children[rows[:-1]] = 1
        self._flags[new] = _USED
        self._flags[rows] |= KEYED | _RECENT
        fresh[list(nameless)] = False
        self._name(rows[fresh], hashes[fresh])
        return rows

    @contextmanager
    def pinned(self, rows: Sequence[int]) -> Iterator[None]:
        """Keep rows that nobody holds, and evict none of these, for a while. NO_ROW is allowed."""
        rows = [row for row in rows if row != NO_ROW]
        for row in rows:
            self._flags_at[row] |= _PINNED
        try:
            yield
        finally:
            for row in rows:
                self._flags_at[row] &= ~_PINNED
                self._free_unheld(row)

    def make_room(self, count: int) -> int:
        """Evict until there is room for so many more rows; for how many there is at last."""
        looked_at = 0
        while self.blocks + count > self.max_blocks and self.free_some():
            pass
        while self.blocks + count > self.max_blocks and looked_at <= 2 * self.max_blocks + _WINDOW:
            looked_at += self._evict_near_hand(count)
        return min(count, self.max_blocks - self.blocks)

    def _evict_near_hand(self, count: int) -> int:
        """Evict leaves of the next window while that is needed; how many rows were looked at."""
        window = slice(self._hand, min(self._hand + _WINDOW, self._free.fresh))
        leaves = (self._flags[window] & _USED > 0) & (self._children[window] == 0)
        for row in (np.flatnonzero(leaves) + self._hand).tolist():
            if self._flags_at[row] & _RECENT:
                self._flags_at[row] &= ~_RECENT
                continue
            while row != NO_ROW and self._is_idle_leaf(row):
                parent = self._parent_at[row]
                self.evict(row)
                if self.blocks + count <= self.max_blocks:
                    self._hand = row
                    return 0
                row = parent
        self._hand = 0 if window.stop >= self._free.fresh else window.stop
        return max(1, window.stop - window.start)

    def _is_idle_leaf(self, row: int) -> bool:
        flags = self._flags_at[row]
        return bool(flags) and not flags & (_PINNED | _RECENT) and not self._children_at[row]

    def evict(self, row: int) -> None:
        """Nobody holds it any more; its row stays where others follow it."""
        number = self._set_at[row]
        self._on_evicted(self.holder_sets.masks[number])
        self._set_at[row] = EMPTY
        self.holder_sets.use(EMPTY, 1)
        self.holder_sets.use(number, -1)
        self._free_unheld(row)

    def free_some(self) -> bool:
        """Let go of some rows that are there for nobody any more; False where there are none."""
        if not self._unheld:
            return False
        self._free_unheld(self._unheld.pop())
        return True

    def _name(self, rows: Rows, hashes: NDArray[np.uint64]) -> None:
        self._hash[rows] = hashes
        self._by_hash.add(rows)
        self._flags[rows] |= _NAMED

    def _free_unheld(self, row: int) -> None:
        """Let go of a row that nobody holds, and of ancestors that are there for it alone; of many
        some, see `free_some`."""
        least = self.blocks - _FREED_AT_ONCE
        while row != NO_ROW and self._set_at[row] == EMPTY and not self._children_at[row]:
            flags = self._flags_at[row]
            if not flags or flags & _PINNED:
                return
            if self.blocks <= least:
                self._unheld.append(row)
                return
            if flags & KEYED:
                self._by_key.remove(row)
            if flags & _NAMED:
                self._by_hash.remove(row)
            self._flags_at[row] = 0
            self._free.give_back(row)
            self.blocks -= 1
            self.holder_sets.use(EMPTY, -1)
            row = self._parent_at[row]
            if row != NO_ROW:
                self._children_at[row] -= 1

    def check_integrity(self) -> None:
        """Raise InvariantError if the table contradicts itself."""
        used = np.flatnonzero(self._flags & _USED)
        if len(used) != self.blocks or self.blocks > self.max_blocks:
            raise InvariantError(f"{len(used)} rows, {self.blocks} counted, {self.max_blocks} max")
        children = np.zeros_like(self._children)
        users: dict[int, int] = {}
        for row in used.tolist():
            users[self._set_at[row]] = users.get(self._set_at[row], 0) + 1
            parent = self._parent_at[row]
            if parent != NO_ROW:
                children[parent] += 1
                if not self.has_key(parent) or self._depth[parent] != self._depth[row] - 1:
                    raise InvariantError(f"row {row} does not follow its parent {parent}")
            keys = Keys(self._low[row : row + 1], self._high[row : row + 1])
            if self.has_key(row) and self.known(keys).tolist() != [row]:
                raise InvariantError(f"row {row} is not found by its key")
        if (children[used] != self._children[used]).any():
            raise InvariantError("children are miscounted")
        if any(self.holder_sets.users[number] != count for number, count in users.items()):
            raise InvariantError("users of holder sets are miscounted")
