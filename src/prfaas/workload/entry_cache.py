"""The cache of one agent, as `prfaas.pool` keeps it: whole entries, least recently used out first.

An entry is what one transfer, or one answer, has of a prompt: blocks from some place on, and where
the model has recurrent states, those at its end. Such a model can go on from the ends of entries
alone; others from any block's end. Either needs all that is before it, from whichever entries. A
use of an entry is one of all that it stands on, and those count as used later: the oldest is never
one that others stand on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import ceil

from prfaas.core.errors import InvariantError


class Entry:
    """Blocks of a prompt behind the first ``start``."""

    __slots__ = ("blocks", "bytes", "start")

    def __init__(self, start: int, blocks: Sequence[int], size: float) -> None:
        self.start, self.blocks, self.bytes = start, blocks, size

    @property
    def end(self) -> int:
        """How many of the prompt's blocks end with it."""
        return self.start + len(self.blocks)


class EntryCache:
    """At most ``most_bytes``. Block hashes name the whole prefix that ends with them.

    Args:
        block_bytes: of a block's KV.
        state_bytes: of the states at an entry's end; 0: the model has none.
        granule_bytes: an entry takes a multiple of it.
        head_bytes: an entry takes so much more.
    """

    def __init__(
        self,
        most_bytes: float,
        *,
        block_bytes: float,
        state_bytes: float,
        granule_bytes: int = 0,
        head_bytes: int = 0,
    ) -> None:
        self._most = most_bytes
        self._block_bytes, self._state_bytes = block_bytes, state_bytes
        self._granule_bytes, self._head_bytes = granule_bytes, head_bytes
        self.bytes = 0.0
        """Held now."""
        self.evicted = 0
        """Entries, so far."""
        self._with: dict[int, list[Entry]] = {}
        """Block -> the entries that have it."""
        self._ending: dict[int, list[Entry]] = {}
        """Block -> the entries that end with it."""
        self._queue: OrderedDict[Entry, None] = OrderedDict()

    def __len__(self) -> int:
        """Entries."""
        return len(self._queue)

    def match(self, blocks: Sequence[int]) -> int:
        """From how many leading blocks it can be gone on; counts as no use."""
        path = self.path(blocks)
        return self._reach(path[-1], blocks) if path else 0

    def path(self, blocks: Sequence[int]) -> list[Entry]:
        """The entries that together have what can be gone on from, the first first."""
        found = self._ending if self._state_bytes else self._with
        for block in filter(found.__contains__, reversed(blocks)):
            for entry in found[block]:
                path = self._stands_on(entry, blocks)
                if not path[-1].start:
                    return path[::-1]
        return []

    def use(self, blocks: Sequence[int]) -> None:
        """What `match` found is loaded."""
        for entry in reversed(self.path(blocks)):
            self._queue.move_to_end(entry)

    def insert(self, blocks: Sequence[int], start: int | None = None) -> None:
        """Keep ``blocks`` from ``start`` on as one entry, or what of them is not there; what is too
        large, or there, is not kept."""
        held = self.match(blocks)
        if held == len(blocks):
            self.use(blocks)
            return
        start = held if start is None else start
        fresh = blocks[start:]
        size = self._size(len(fresh))
        if not fresh or size > self._most:
            return
        entry = Entry(start, fresh, size)
        for other in self._replaced_by(entry):
            self._remove(other)
        self._queue[entry] = None
        self.bytes += size
        for block in fresh:
            self._with.setdefault(block, []).append(entry)
        self._ending.setdefault(fresh[-1], []).append(entry)
        for used in self._stands_on(entry, blocks):
            self._queue.move_to_end(used)
        while self.bytes > self._most:
            self._remove(next(other for other in self._queue if other is not entry))
            self.evicted += 1

    def _size(self, blocks: int) -> float:
        size = blocks * self._block_bytes + self._state_bytes
        if self._granule_bytes:
            size = ceil(size / self._granule_bytes) * self._granule_bytes
        return size + self._head_bytes

    def _reach(self, entry: Entry, blocks: Sequence[int]) -> int:
        """How many of ``blocks`` end within the last entry of their path."""
        if self._state_bytes:
            return entry.end
        count = min(entry.end, len(blocks))
        while blocks[count - 1] != entry.blocks[count - 1 - entry.start]:
            count -= 1
        return count

    def _stands_on(self, entry: Entry, blocks: Sequence[int]) -> list[Entry]:
        """The entry and those that have what is before it, the last first, as far as they are
        there."""
        path = [entry]
        while (start := path[-1].start) > 0:
            others = self._with.get(blocks[start - 1], ())
            before = min(others, key=lambda other: other.start, default=None)
            if before is None or before.start >= start:
                break
            path.append(before)
        return path

    def _replaced_by(self, entry: Entry) -> list[Entry]:
        ends = set(entry.blocks[-1:] if self._state_bytes else entry.blocks)
        found = {other: None for block in ends for other in self._with.get(block, ())}
        return [o for o in found if o.start >= entry.start and o.blocks[-1] in ends]

    def _remove(self, entry: Entry) -> None:
        del self._queue[entry]
        for block in entry.blocks:
            self._drop(self._with, block, entry)
        self._drop(self._ending, entry.blocks[-1], entry)
        self.bytes = self.bytes - entry.bytes if self._queue else 0.0

    @staticmethod
    def _drop(entries: dict[int, list[Entry]], block: int, entry: Entry) -> None:
        entries[block].remove(entry)
        if not entries[block]:
            del entries[block]

    def check_integrity(self) -> None:
        """Raise InvariantError where the books disagree."""
        if self.bytes > self._most:
            raise InvariantError("the cache holds more than it may")
        if abs(self.bytes - sum(entry.bytes for entry in self._queue)) > 1e-6 * (1 + self.bytes):
            raise InvariantError("bytes are miscounted")
        found = [entry for entries in self._with.values() for entry in entries]
        if set(found) != set(self._queue) or len(found) != sum(len(e.blocks) for e in self._queue):
            raise InvariantError("an entry is found but not held, or held but not found")
        ending = [entry for entries in self._ending.values() for entry in entries]
        if set(ending) != set(self._queue) or len(ending) != len(self._queue):
            raise InvariantError("an entry's end is not found, or one that is not held")
