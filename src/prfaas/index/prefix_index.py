"""Which prefix of a prompt each engine holds in its own prefix cache, learnt from its KV events.

Theory of operation. A vLLM engine publishes every block it caches (`stored`: hashes, the hash of
the block before them, token ids, extra keys such as a cache salt) and every block it drops
(`removed`). Its hash function need not be reproduced. From a stored full-attention block, whose
parent is known, this index derives a *key* of its own (`keys`). One table holds every block once
(`block_table`), with the set of engines that hold it (`holder_sets`): memory and the cost of a match
do not grow with the number of engines. The same keys are computed for a prompt, and looked up once.

An engine's hash identifies a prefix and is the same in all of its KV groups, so the other groups
(recurrent, sliding window) only need the set of hashes they hold. Their events must not be used for
positions: their token ids also span blocks that were skipped. Engines that hash alike, as vLLM's do
by default, share a block's hash; where one calls it otherwise, its own name is kept beside.

Two lengths come out of a match:

* ``reusable_tokens``: the longest prefix the engine can continue from by itself: every
  full-attention block from the first on, in every recurrent group the state at exactly that
  length, in every sliding-window group the blocks that the next token still sees.
* ``transferable_tokens``: the prefix that a KV transfer to this engine can leave out. Where a
  model has recurrent layers beside one group of full attention that is the whole run of
  full-attention blocks, because the states travel in any case. Otherwise it is what the engine
  could reuse: for models without recurrent layers, with sliding windows or further groups (of
  which only the part after this prefix travels), and where a state lies beyond the end of the run
  (vLLM's `get_computed_blocks_for_connector`).

An engine always computes the last token of a prompt, so it never counts as held. All errors are on
the low side: what was never announced, cannot be placed, or exceeds ``max_blocks`` is taken as
absent. An engine that holds less than the index says recomputes; no answer is wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from prfaas.core.errors import InvariantError
from prfaas.index.block_table import NO_ROW, BlockTable, segments
from prfaas.index.holder_sets import HolderSets
from prfaas.index.keys import BlockHasher, Keys, PromptKeys, encode_extra
from prfaas.index.matching import CHAINED_KINDS, Family, Group, PrefixMatch, Stretch
from prfaas.index.open_table import Rows

BlockHash = int | bytes

_WORD = (1 << 64) - 1
_SETS_AT_ONCE, _ROWS_AT_ONCE, _FREED_AT_ONCE = 4096, 65_536, 512
"""What one step of `PrefixIndex.tidy` looks at: a few milliseconds at most."""


class BlocksStored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of one KV group that an engine now caches, as its event says.

    ``extra_keys`` has one entry per hash (or is None); ``window_tokens`` only for sliding windows.
    """

    group: int
    kind: str
    block_tokens: int
    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    token_ids: Sequence[int]
    extra_keys: Sequence[Any] | None = None
    window_tokens: int | None = None


class EngineMatch(NamedTuple):
    """Engines that hold equally much of a prompt."""

    engines: list[str]
    match: PrefixMatch


class PrefixIndex:
    """What all engines hold. Not thread-safe.

    Args:
        max_blocks: how many distinct blocks are kept; about 75 bytes each.
        max_engines: how many engines there can be.
        seed: secret from those who choose prompts (see `BlockHasher`).
    """

    def __init__(
        self, *, max_blocks: int = 1 << 20, max_engines: int = 1000, seed: bytes = b""
    ) -> None:
        self._hasher = BlockHasher(seed)
        self._sets = HolderSets()
        self._table = BlockTable(max_blocks, self._sets, self._evicted)
        self._width = -(-(2 * max_engines + 8) // 64) * 64
        """Bits in a plane: engines, and as many that were cleared and are still in sets."""
        self._owners: list[EngineIndex | None] = [None] * self._width
        self._unused_ids = list(range(self._width - 1, -1, -1))
        self._families: dict[tuple[Group, ...], Family] = {}
        self._cleared_ids: list[int] = []
        self._dead = 0
        """Bits of engines that were cleared: taken out of sets by and by."""
        self._tidying: Iterator[None] | None = None

    @property
    def blocks(self) -> int:
        """Distinct blocks that are known."""
        return self._table.blocks

    def engine(self, name: str) -> EngineIndex:
        """What one engine holds; nothing yet. Once for each engine."""
        return EngineIndex(name, self)

    def match(self, prompt: PromptKeys) -> list[EngineMatch]:
        """How much of the prompt's prefix each engine holds, those with nothing left out."""
        found: list[EngineMatch] = []
        stretches: dict[int, list[Stretch]] = {}
        for family in self._families.values():
            size = family.block_tokens
            if size is None or not family.engines:
                continue
            if size not in stretches:
                stretches[size] = self._stretches(prompt, size)
            for engines, transferable, reusable in family.match(stretches[size]):
                match = PrefixMatch(transferable * size, reusable * size)
                found.append(EngineMatch(self._names(engines), match))
        return found

    def tidy(self) -> bool:
        """Take a little of what cleared engines left out of memory; False where nothing is left to
        do. Matches do not depend on it."""
        if self._tidying is None:
            if not self._cleared_ids:
                return False
            self._tidying = self._tidy()
        if next(self._tidying, self) is self:
            self._tidying = None
        return True

    def check_integrity(self) -> None:
        """Raise InvariantError if the index contradicts itself."""
        self._table.check_integrity()
        held: dict[str, int] = {}
        for number, mask in enumerate(self._sets.masks):
            for engine in filter(None, self._owners):
                count = (mask & engine.bits).bit_count() * self._sets.users[number]
                held[engine.name] = held.get(engine.name, 0) + count
        for engine in filter(None, self._owners):
            if held[engine.name] != engine.blocks:
                raise InvariantError(
                    f"{engine.name}: {held[engine.name]} blocks held, {engine.blocks} counted"
                )

    # -- for EngineIndex ------------------------------------------------------------------------

    @property
    def table(self) -> BlockTable:
        """The blocks."""
        return self._table

    @property
    def hasher(self) -> BlockHasher:
        """Computes keys."""
        return self._hasher

    @property
    def width(self) -> int:
        """Bits in a plane."""
        return self._width

    def alive(self, mask: int) -> int:
        """Holders without those that were cleared."""
        return mask & ~self._dead

    def admit(self, engine: EngineIndex) -> int:
        """An id for an engine. Raises InvariantError where there are more than ``max_engines``."""
        while not self._unused_ids and self.tidy():
            pass
        if not self._unused_ids:
            raise InvariantError("more engines than the index was made for")
        number = self._unused_ids.pop()
        self._owners[number] = engine
        return number

    def dismiss(self, engine: EngineIndex) -> None:
        """It holds nothing any more, and gives its id back."""
        self._owners[engine.number] = None
        self._cleared_ids.append(engine.number)
        for plane in range(engine.planes):
            self._dead |= 1 << (plane * self._width + engine.number)

    def regroup(
        self, number: int, before: tuple[Group, ...] | None, groups: tuple[Group, ...] | None
    ) -> None:
        """The engine with this id is now of another family (or of none)."""
        if before is not None:
            family = self._families[before]
            family.engines &= ~(1 << number)
            if not family.engines:
                del self._families[before]
        if groups is not None:
            if groups not in self._families:
                self._families[groups] = Family(groups, self._width)
            self._families[groups].engines |= 1 << number

    # -- the parts ------------------------------------------------------------------------------

    def _stretches(self, prompt: PromptKeys, block_tokens: int) -> list[Stretch]:
        found: list[Stretch] = []
        done = 0
        for keys in prompt.chunks(self._hasher, block_tokens):
            rows = self._table.known(keys)
            self._table.touch(rows)
            for start, end, number in segments(self._table.sets[rows]):
                found.append(Stretch(done + start, done + end, self._sets.masks[number]))
            done += len(rows)
            if len(rows) < len(keys.low):
                break
        return found

    def _names(self, engines: int) -> list[str]:
        octets = np.frombuffer(engines.to_bytes(self._width // 8, "little"), np.uint8)
        numbers = np.flatnonzero(np.unpackbits(octets, bitorder="little")).tolist()
        return [owner.name for n in numbers if (owner := self._owners[n]) is not None]

    def _evicted(self, mask: int) -> None:
        mask = self.alive(mask)
        while mask:
            lowest = mask & -mask
            owner = self._owners[(lowest.bit_length() - 1) % self._width]
            if owner is not None:
                owner.blocks -= 1
            mask ^= lowest

    def _tidy(self) -> Iterator[None]:
        ids, dead = self._cleared_ids, self._dead
        self._cleared_ids = []
        emptied = np.zeros(len(self._sets.masks), np.bool_)
        for number in range(len(emptied)):
            emptied[number] = self._sets.forget(number, dead)
            if number % _SETS_AT_ONCE == _SETS_AT_ONCE - 1:
                yield
        if emptied.any():
            for start in range(0, self._table.max_blocks, _ROWS_AT_ONCE):
                yield from self._let_go(start, emptied)
        self._dead &= ~dead
        self._unused_ids += ids

    def _let_go(self, start: int, emptied: NDArray[np.bool_]) -> Iterator[None]:
        """Of rows from ``start`` on those whose holders have all been cleared."""
        sets = self._table.sets[start : start + _ROWS_AT_ONCE]
        known = sets < len(emptied)
        rows = np.flatnonzero(known & emptied[np.where(known, sets, 0)]) + start
        for first in range(0, len(rows), _FREED_AT_ONCE):
            for row in rows[first : first + _FREED_AT_ONCE].tolist():
                if not self._table.holders(row) and self._table.sets[row]:
                    self._table.hold(row, 0)
            yield


class EngineIndex:
    """What one engine holds, in the index of all."""

    def __init__(self, name: str, index: PrefixIndex) -> None:
        self.name = name
        self.blocks = 0
        """Hashes held over all groups."""
        self.unplaced_blocks_total = 0
        """Full-attention blocks whose parent was unknown, whose shape made no sense, or for which
        there was no room."""
        self.number = index.admit(self)
        self.bits = 0
        self.planes = 1
        """The first is for full attention."""
        self._index, self._table = index, index.table
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
        self._index.regroup(self.number, tuple(self._groups.values()), None)
        self._index.dismiss(self)
        self.number = self._index.admit(self)
        self.blocks = self.bits = 0
        self.planes = 1
        self._groups.clear()
        self._bit_of.clear()
        self._own_names.clear()
        self._block_tokens = None

    def stored(self, event: BlocksStored) -> None:
        """Blocks were cached."""
        group = self._groups.get(event.group) or self._meet(event)
        if group.chained:
            self._store_chained(self._bit_of[event.group], event)
        else:
            for block_hash in event.hashes:
                self._store_named(self._bit_of[event.group], _word(block_hash))

    def removed(self, group_index: int | None, hashes: Sequence[BlockHash]) -> None:
        """Blocks were dropped from one group (None: from every group)."""
        bits = self.bits if group_index is None else self._bit_of.get(group_index, 0)
        for block_hash in hashes if bits else ():
            self._drop(_word(block_hash), bits)

    def _meet(self, event: BlocksStored) -> Group:
        """The first event of a group."""
        before = tuple(self._groups.values()) or None
        chained = event.kind in CHAINED_KINDS
        plane = 0 if chained and self._block_tokens is None else self.planes
        self.planes = max(self.planes, plane + 1)
        group = Group(plane, event.kind, event.block_tokens, event.window_tokens)
        if chained and self._block_tokens is None:
            self._block_tokens = event.block_tokens
        self._groups[event.group] = group
        bit = self._bit_of[event.group] = 1 << (plane * self._index.width + self.number)
        self.bits |= bit
        self._index.regroup(self.number, before, tuple(self._groups.values()))
        return group

    def _store_chained(self, bit: int, event: BlocksStored) -> None:
        """Key and hold the blocks of a full-attention event."""
        size, count, extras = self._block_tokens, len(event.hashes), event.extra_keys
        assert size is not None
        sound = event.block_tokens == size and len(event.token_ids) == size * count
        sound = sound and (not extras or len(extras) == count)
        parent, place = NO_ROW, self._index.hasher.root(size)
        if event.parent is not None:
            parent = self._row(_word(event.parent))
            sound = sound and parent != NO_ROW and self._table.has_key(parent)
            if sound:
                place = self._table.place(parent)
        words = [_word(block_hash) for block_hash in event.hashes]
        if not sound or not count or len(set(words)) != count:
            self.unplaced_blocks_total += count
            return
        hashes = np.array(words, np.uint64)
        tokens = np.array(event.token_ids, np.uint32)
        encoded = [encode_extra(extra) for extra in extras] if extras else ()
        keys = self._index.hasher.extend(place, tokens, size, encoded)
        rows = self._table.known(keys)
        known = len(rows)
        self._rename(rows, hashes[:known])
        self._hold(rows, bit)
        self._table.touch(rows)
        if known < count:
            last = int(rows[-1]) if known else parent
            new = Keys(keys.low[known:], keys.high[known:])
            self._grow(last, place.depth + known, new, hashes[known:], bit)

    def _grow(
        self, parent: int, depth: int, keys: Keys, hashes: NDArray[np.uint64], bit: int
    ) -> None:
        """New blocks after the one in row ``parent``."""
        table = self._table
        adopted, nameless = [], []
        with table.pinned([parent]):
            for position, word in enumerate(hashes.tolist()):
                row = table.named(word)
                if row != NO_ROW and table.has_key(row) and self._drop(word, self.bits):
                    row = table.named(word)  # It called another block so before.
                if row != NO_ROW:
                    (nameless if table.has_key(row) else adopted).append((position, row))
            with table.pinned([row for _, row in adopted]):
                if not table.make_room(len(hashes) - len(adopted)):
                    self.unplaced_blocks_total += len(hashes)
                    return
                rows = table.add_chain(
                    parent, depth, keys, hashes, adopted=adopted, nameless=[p for p, _ in nameless]
                )
                self._hold(rows, bit)
        self._rename(rows, hashes)

    def _store_named(self, bit: int, word: int) -> None:
        """Hold a block of a group whose events say no position."""
        row = self._row(word)
        if row == NO_ROW:
            row = self._table.named(word)
        if row == NO_ROW:
            row = self._table.add_named(word)
        if row != NO_ROW:
            self._hold(np.array([row], np.int64), bit)

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
        for position in np.flatnonzero(~self._table.is_called(rows, hashes)).tolist():
            word, row = int(hashes[position]), int(rows[position])
            other = self._table.named(word)
            if other != NO_ROW and not self._table.has_key(other):
                self._move(other, row)
            self._own_names[word] = row, self._table.place(row).low

    def _move(self, source: int, target: int) -> None:
        """What this engine holds of one row it holds of the other."""
        alive, table = self._index.alive, self._table
        mask, more = alive(table.holders(source)), alive(table.holders(target))
        held = mask & self.bits
        if held:
            self.blocks -= (held & more).bit_count()
            table.hold(target, more | held)
            table.hold(source, mask & ~held)

    def _hold(self, rows: Rows, bit: int) -> None:
        alive = self._index.alive
        self.blocks += self._table.hold_each(
            rows, lambda mask: mask if mask & bit else alive(mask) | bit
        )

    def _drop(self, word: int, bits: int) -> bool:
        row = self._row(word)
        if row == NO_ROW:
            return False
        mask = self._table.holders(row)
        gone = mask & bits
        if gone:
            self.blocks -= gone.bit_count()
            self._table.hold(row, self._index.alive(mask) & ~bits)
            if not mask & ~bits & self.bits:
                self._own_names.pop(word, None)
        return bool(gone)


def _word(block_hash: BlockHash) -> int:
    """An engine's hash in 64 bits, which is all that it sends by default."""
    if isinstance(block_hash, int):
        return block_hash & _WORD
    return int.from_bytes(hashlib.blake2b(block_hash, digest_size=8).digest(), "big")
