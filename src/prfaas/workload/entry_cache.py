"""The cache of one agent, as `prfaas.pool` keeps it: whole entries, least recently used out first.

An entry is what one transfer, or one answer, added to what was there: its blocks, and where the
model has recurrent states, those at its end. Such a model can go on from the ends of entries alone;
others from any block's end. A use of an entry is one of all that it stands on, and those count as
used later: the oldest is never one that others stand on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from prfaas.core.errors import InvariantError


class _Entry:
    __slots__ = ("before", "blocks", "bytes")

    def __init__(self, before: _Entry | None, blocks: Sequence[int], size: float) -> None:
        self.before, self.blocks, self.bytes = before, blocks, size


class EntryCache:
    """At most ``most_bytes``. Block hashes name the whole prefix that ends with them.

    Args:
        block_bytes: of a block's KV.
        state_bytes: of the states at an entry's end; 0: the model has none.
    """

    def __init__(self, most_bytes: float, *, block_bytes: float, state_bytes: float) -> None:
        self._most = most_bytes
        self._block_bytes, self._state_bytes = block_bytes, state_bytes
        self.bytes = 0.0
        """Held now."""
        self.evicted = 0
        """Entries, so far."""
        self._at: dict[int, _Entry] = {}
        """Block that can be gone on from -> the entry that has it."""
        self._queue: OrderedDict[_Entry, None] = OrderedDict()

    def __len__(self) -> int:
        """Entries."""
        return len(self._queue)

    def match(self, blocks: Sequence[int]) -> int:
        """From how many leading blocks it can be gone on; counts as no use."""
        for count in range(len(blocks), 0, -1):
            if blocks[count - 1] in self._at:
                return count
        return 0

    def use(self, blocks: Sequence[int]) -> None:
        """What `match` found is loaded."""
        held = self.match(blocks)
        self._used(self._at[blocks[held - 1]] if held else None)

    def insert(self, blocks: Sequence[int]) -> None:
        """Keep what of ``blocks`` is not there, as one entry; what is too large is not kept."""
        held = self.match(blocks)
        before = self._at[blocks[held - 1]] if held else None
        fresh = blocks[held:]
        size = len(fresh) * self._block_bytes + self._state_bytes
        if fresh and size <= self._most:
            entry = _Entry(before, fresh, size)
            self._at.update(dict.fromkeys(fresh[-1:] if self._state_bytes else fresh, entry))
            self.bytes += size
            before = entry
        self._used(before)
        while self.bytes > self._most:
            self._evict()

    def _used(self, entry: _Entry | None) -> None:
        while entry is not None:
            self._queue[entry] = None
            self._queue.move_to_end(entry)
            entry = entry.before

    def _evict(self) -> None:
        entry, _ = self._queue.popitem(last=False)
        for block in entry.blocks:
            if self._at.get(block) is entry:
                del self._at[block]
        self.bytes = self.bytes - entry.bytes if self._queue else 0.0
        self.evicted += 1

    def check_integrity(self) -> None:
        """Raise InvariantError where the books disagree."""
        if self.bytes > self._most:
            raise InvariantError("the cache holds more than it may")
        if abs(self.bytes - sum(entry.bytes for entry in self._queue)) > 1e-6 * (1 + self.bytes):
            raise InvariantError("bytes are miscounted")
        age = {entry: place for place, entry in enumerate(self._queue)}
        if set(self._at.values()) != set(age):
            raise InvariantError("an entry is found but not held, or held but not found")
        for entry in age:
            if entry.before is not None and age.get(entry.before, -1) < age[entry]:
                raise InvariantError("an entry stands on one that is older, or gone")
