"""What one engine holds, kept up by its KV events. See `prefix_index`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prfaas.index.block_table import NO_ROW, UNLIKE, BlockTable
from prfaas.index.cache_events import BlocksKeyed, BlocksStored
from prfaas.index.holds import Holds
from prfaas.index.keys import BlockHasher, Keys, Place, encode_extra
from prfaas.index.matching import CHAINED_KINDS, Group
from prfaas.index.members import Members
from prfaas.index.open_table import Rows
from prfaas.index.words import BlockHash, word_of, words_of

_WORD = (1 << 64) - 1
_MOST_BITS = 1 << 17
"""Of a set of holders: 30 groups each of a thousand engines."""


class EngineIndex:
    """What one engine holds, in the index of all."""

    def __init__(self, name: str, table: BlockTable, members: Members, hasher: BlockHasher) -> None:
        self.name = name
        self.blocks = 0
        """Hashes held over all groups."""
        self.unplaced_blocks_total = 0
        """Full-attention blocks whose parent was unknown, whose shape made no sense, or for which
        there was no room; and all for whose set of holders there was none."""
        self.number = members.admit(self)
        self.bits = 0
        self.planes = 1
        """The first is for full attention."""
        self._table, self._members, self._hasher = table, members, hasher
        self._holds = Holds(table, members)
        self._groups: dict[int, Group] = {}
        self._bit_of: dict[int, int] = {}
        self._block_tokens: int | None = None
        """Block size of the full-attention groups, from their first event."""
        self._own_names: dict[int, tuple[int, int]] = {}
        """Hash -> row and its key, where the row is called otherwise."""

    def clear(self) -> None:
        """The engine dropped everything, restarted, or cannot be followed any more."""
        if not self._groups:
            return
        self.leave()
        self.number = self._members.admit(self)

    def leave(self) -> None:
        """The engine has left for good. Nothing may be stored any more."""
        self._members.regroup(self.number, tuple(self._groups.values()), ())
        self._members.dismiss(self)
        self.blocks = self.bits = 0
        self.planes = 1
        self._groups.clear()
        self._bit_of.clear()
        self._own_names.clear()
        self._block_tokens = None

    def stored(self, event: BlocksStored) -> None:
        """Blocks were cached."""
        group = self._groups.get(event.group) or self._meet(event)
        if group is None:
            self.unplaced_blocks_total += len(event.hashes)
        elif group.chained:
            self._store_chained(self._bit_of[event.group], event)
        else:
            for block_hash in event.hashes:
                self._store_named(self._bit_of[event.group], word_of(block_hash))

    def stored_keyed(self, event: BlocksKeyed) -> None:
        """Blocks were cached, as another place that has the same secret has keyed them."""
        group = self._groups.get(event.group) or self._meet(event)
        names = np.frombuffer(event.names, np.uint64)
        if group is None:
            self.unplaced_blocks_total += len(names)
            return
        bit = self._bit_of[event.group]
        if not group.chained:
            for name in names.tolist():
                self._store_named(bit, name)
            return
        keys, count = np.frombuffer(event.keys, np.uint64), len(names)
        parent, depth = NO_ROW, 0
        sound = event.block_tokens == self._block_tokens and len(keys) == 2 * count
        sound = sound and len(np.unique(keys[:count])) == count
        if event.parent is not None:
            parent = self._row(event.parent & _WORD)
            sound = sound and parent != NO_ROW and self._table.has_key(parent)
            depth = self._table.place(parent).depth if sound else 0
        if not sound or not count or len(np.unique(names)) != count:
            self.unplaced_blocks_total += count
            return
        self._store_keys(bit, parent, depth, Keys(keys[:count], keys[count:]), names)

    def removed(self, group_index: int | None, hashes: Sequence[BlockHash]) -> None:
        """Blocks were dropped from one group (None: from every group)."""
        bits = self.bits if group_index is None else self._bit_of.get(group_index, 0)
        for block_hash in hashes if bits else ():
            self._drop(word_of(block_hash), bits)

    def _meet(self, event: BlocksStored | BlocksKeyed) -> Group | None:
        """The first event of a group; None where there is no room for another."""
        if (self.planes + 1) * self._members.width > _MOST_BITS and self._groups:
            return None
        before = tuple(self._groups.values())
        chained = event.kind in CHAINED_KINDS
        plane = 0 if chained and self._block_tokens is None else self.planes
        self.planes = max(self.planes, plane + 1)
        group = Group(plane, event.kind, event.block_tokens, event.window_tokens)
        if chained and self._block_tokens is None:
            self._block_tokens = event.block_tokens
        self._groups[event.group] = group
        bit = self._bit_of[event.group] = 1 << (plane * self._members.width + self.number)
        self.bits |= bit
        self._members.regroup(self.number, before, tuple(self._groups.values()))
        return group

    def _store_chained(self, bit: int, event: BlocksStored) -> None:
        """Key and hold the blocks of a full-attention event."""
        size, count, extras = self._block_tokens, len(event.hashes), event.extra_keys
        assert size is not None
        sound = event.block_tokens == size and len(event.token_ids) == size * count
        sound = sound and (not extras or len(extras) == count)
        parent, place = NO_ROW, self._hasher.root(size)
        if event.parent is not None:
            parent = self._row(word_of(event.parent))
            sound = sound and parent != NO_ROW and self._table.has_key(parent)
            if sound:
                place = self._table.place(parent)
        if not sound or not count or len(set(event.hashes)) != count:
            self.unplaced_blocks_total += count
            return
        if count == 1:
            extra = encode_extra(extras[0]) if extras else b""
            one = self._hasher.extend_one(place, event.token_ids, extra)
            if self._store_one(parent, one, word_of(event.hashes[0]), bit):
                return
        hashes = words_of(event.hashes)
        tokens = np.frombuffer(array("I", event.token_ids), np.uint32)
        encoded = [encode_extra(extra) for extra in extras] if extras else ()
        keys = self._hasher.extend(place, tokens, size, encoded)
        self._store_keys(bit, parent, place.depth, keys, hashes)

    def _store_keys(
        self, bit: int, parent: int, depth: int, keys: Keys, hashes: NDArray[np.uint64]
    ) -> None:
        """Hold blocks that follow each other and the one in row ``parent`` (or NO_ROW), before
        which are ``depth``."""
        rows = self._table.known(keys)
        known = len(rows)
        self._rename(rows, hashes[:known])
        self._hold(rows, bit)
        self._table.touch(rows)
        if known < len(hashes):
            last = int(rows[-1]) if known else parent
            new = Keys(keys.low[known:], keys.high[known:])
            self._grow(last, depth + known, new, hashes[known:], bit)

    def _store_one(self, parent: int, place: Place, word: int, bit: int) -> bool:
        """One block, where there is nothing special about it; False where there is."""
        row = self._table.at(place)
        if row == UNLIKE:
            return False
        if row == NO_ROW:
            if self._table.named(word) != NO_ROW:
                return False
            row = self._table.add_block(parent, place, word)
            if row == NO_ROW:
                return False
        elif not self._table.is_so_called(row, word):
            return False
        self._hold_one(row, bit)
        return True

    def _grow(
        self, parent: int, depth: int, keys: Keys, hashes: NDArray[np.uint64], bit: int
    ) -> None:
        """New blocks after the one in row ``parent``."""
        table = self._table
        if (unlike := table.unlike(keys)) < len(hashes):
            self.unplaced_blocks_total += len(hashes) - unlike
            keys, hashes = Keys(keys.low[:unlike], keys.high[:unlike]), hashes[:unlike]
            if not unlike:
                return
        adopted: list[tuple[int, int]] = []
        nameless: list[tuple[int, int]] = []
        with table.pinned([parent]):
            for position in table.taken(hashes):
                word = int(hashes[position])
                row = table.named(word)
                if row != NO_ROW and table.has_key(row) and self._drop(word, self.bits):
                    row = table.named(word)  # It called another block so before.
                if row != NO_ROW:
                    (nameless if table.has_key(row) else adopted).append((position, row))
            with table.pinned([row for _, row in adopted]):
                new = len(hashes) - len(adopted)
                lacking = new - table.make_room(new)
                if lacking:
                    self.unplaced_blocks_total += lacking
                    count = len(hashes) - lacking
                    keys, hashes = Keys(keys.low[:count], keys.high[:count]), hashes[:count]
                    adopted = [of for of in adopted if of[0] < count]
                    nameless = [of for of in nameless if of[0] < count]
                if not len(hashes):
                    return
                rows = table.add_chain(
                    parent, depth, keys, hashes, adopted=adopted, nameless=[p for p, _ in nameless]
                )
                held = self._hold(rows, bit)
        if held:
            self._rename(rows, hashes)

    def _store_named(self, bit: int, word: int) -> None:
        """Hold a block of a group whose events say no position."""
        row = self._row(word)
        if row == NO_ROW:
            row = self._table.named(word)
        if row == NO_ROW:
            row = self._table.add_named(word)
        if row != NO_ROW:
            self._hold_one(row, bit)

    def _row(self, word: int) -> int:
        """The block that this engine calls so and holds, in any group; or NO_ROW."""
        row = NO_ROW
        if self._own_names and word in self._own_names:
            row, low = self._own_names[word]
            if not self._table.has_key(row) or self._table.place(row).low != low:
                del self._own_names[word]
                row = NO_ROW
        if row == NO_ROW:
            row = self._table.named(word)
        if row == NO_ROW or not self._table.holders(row) & self.bits:
            return NO_ROW
        return row

    def _rename(self, rows: Rows, hashes: NDArray[np.uint64]) -> None:
        """Note where this engine calls blocks otherwise; what it holds of them under that name
        alone, it holds of them."""
        if len(self._own_names) > self._table.max_blocks:
            self._own_names.clear()  # More names than blocks: most are of none.
        for position in np.flatnonzero(~self._table.is_called(rows, hashes)).tolist():
            word, row = int(hashes[position]), int(rows[position])
            other = self._table.named(word)
            if other != NO_ROW and not self._table.has_key(other):
                gone = self._holds.move(other, row, self.bits)
                self.blocks -= gone  # It may have been changed meanwhile.
            self._own_names[word] = row, self._table.place(row).low

    def _hold_one(self, row: int, bit: int) -> None:
        added = self._holds.add_one(row, bit)
        self.blocks += added > 0
        self.unplaced_blocks_total += added < 0

    def _hold(self, rows: Rows, bit: int) -> bool:
        """False where there was no room for all."""
        added, lacking = self._holds.add(rows, bit)
        self.blocks += added
        self.unplaced_blocks_total += lacking
        return not lacking

    def _drop(self, word: int, bits: int) -> bool:
        row = self._row(word)
        if row == NO_ROW:
            return False
        mask = self._table.holders(row)
        gone = mask & bits
        if gone:
            dropped = self._holds.drop(row, bits)
            self.blocks -= dropped  # It may have been changed meanwhile.
            if not mask & ~bits & self.bits:
                self._own_names.pop(word, None)
        return bool(gone)
