"""Which prefix of a prompt each engine holds in its own prefix cache, learnt from its KV events.

Theory of operation. A vLLM engine publishes every block it caches (`stored`: hashes, the hash of
the block before them, token ids, extra keys such as a cache salt) and every block it drops
(`removed`). Its hash function need not be reproduced. From a stored full-attention block, whose
parent is known, this index derives a *key* of its own (`keys`). One table holds every block once
(`block_table`), with the set of engines that hold it (`holder_sets`): memory and the cost of a
match do not grow with the number of engines. The same keys are computed for a prompt, and looked up
once.

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

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prfaas.core.errors import InvariantError
from prfaas.index.block_table import BlockTable
from prfaas.index.engine_index import EngineIndex
from prfaas.index.holder_sets import HolderSets
from prfaas.index.keys import BlockHasher, PromptKeys
from prfaas.index.matching import PrefixMatch, Stretch
from prfaas.index.members import Members
from prfaas.index.segments import segments

_RESERVED_PART = 32
"""One row in so many is kept free where there is time, so that new blocks need not wait for it."""
_SETS_AT_ONCE, _ROWS_AT_ONCE, _FREED_AT_ONCE = 4096, 65_536, 512
"""What one step of `PrefixIndex.tidy` looks at: a few milliseconds at most."""


_SETS_BYTES, _SETS_BYTES_OF_BLOCK = 64 * 1024 * 1024, 256
"""So much memory, or so much for each block, all sets of holders may take. They take a tenth of it
where a thousand engines each have ten groups."""


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
        self._sets = HolderSets(max(_SETS_BYTES, _SETS_BYTES_OF_BLOCK * max_blocks))
        self._members = Members(max_engines, self.tidy)
        self._table = BlockTable(max_blocks, self._sets, self._members.lost)
        self._tidying: Iterator[None] | None = None

    @property
    def blocks(self) -> int:
        """Distinct blocks that are known."""
        return self._table.blocks

    def engine(self, name: str) -> EngineIndex:
        """What one engine holds; nothing yet. Once for each engine."""
        return EngineIndex(name, self._table, self._members, self._hasher)

    def rekey(self, seed: bytes) -> None:
        """Forget what all engines hold; keys are made with this seed from now on."""
        for member in self._members.alive_members:
            member.clear()
        self._hasher.rekey(seed)

    def match(self, prompt: PromptKeys) -> list[EngineMatch]:
        """How much of the prompt's prefix each engine holds, those with nothing left out."""
        found: list[EngineMatch] = []
        stretches: dict[int, list[Stretch]] = {}
        for family in self._members.families:
            size = family.block_tokens
            if size is None:
                continue
            if size not in stretches:
                stretches[size] = self._stretches(prompt, size)
            for engines, transferable, reusable in family.match(stretches[size]):
                match = PrefixMatch(transferable * size, reusable * size)
                found.append(EngineMatch(self._members.names(engines), match))
        return found

    def tidy(self) -> bool:
        """Take a little out of memory of what nobody holds any more, or cleared engines left there,
        or make a little room ahead; False where nothing is left to do."""
        table = self._table
        if table.free_some():
            return True
        room, wanted = table.max_blocks - table.blocks, table.max_blocks // _RESERVED_PART
        if room < wanted:
            return table.make_room(min(wanted, room + _FREED_AT_ONCE)) > room
        if self._tidying is None:
            if not self._members.cleared:
                return False
            self._tidying = self._tidy()
        if next(self._tidying, self) is self:
            self._tidying = None
        return True

    def check_integrity(self) -> None:
        """Raise InvariantError if the index contradicts itself."""
        self._table.check_integrity()
        for engine in self._members.alive_members:
            held = sum(
                (mask & engine.bits).bit_count() * users
                for mask, users in zip(self._sets.masks, self._sets.users, strict=True)
            )
            if held != engine.blocks:
                raise InvariantError(f"{engine.name}: {held} held, {engine.blocks} counted")

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

    def _tidy(self) -> Iterator[None]:
        ids, dead = self._members.take_cleared()
        emptied = np.zeros(len(self._sets.masks), np.bool_)
        for number in range(len(emptied)):
            emptied[number] = self._sets.forget(number, dead)
            if number % _SETS_AT_ONCE == _SETS_AT_ONCE - 1:
                yield
        if emptied.any():
            for start in range(0, self._table.max_blocks, _ROWS_AT_ONCE):
                yield from self._let_go(start, emptied)
        self._members.give_back(ids, dead)

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
