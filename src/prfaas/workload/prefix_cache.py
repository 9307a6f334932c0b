"""A finite prefix cache over chained block hashes, least recently used out first.

Theory of operation. A block's hash names the whole prefix that ends with it (as in the Mooncake
traces and in vLLM), so what a cache holds is a tree, and a prompt's cached part is a path from its
root. Runs of blocks without a branch are one `_Run`, found by its first block: nothing is done per
block. Equal hashes mean equal prefixes, so a run is held by a prompt if its last block is, and the
part of a run that a prompt shares is found by bisection.

Using a path moves its runs to the young end of one queue, leaf first and root last, so an ancestor
is always younger than its descendants: the oldest run is a leaf, and evicting from its tail never
breaks a prefix.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from prfaas.core.errors import InvariantError


class _Run:
    __slots__ = ("blocks", "parent", "start")

    def __init__(self, parent: _Run | None, start: int, blocks: list[int]) -> None:
        self.parent = parent
        self.start = start
        """How many blocks of the path come before."""
        self.blocks = blocks


class PrefixCache:
    """At most ``capacity`` blocks (None: no bound). Block hashes are any integers."""

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self._size = 0
        self._runs: dict[int, _Run] = {}
        """First block -> run."""
        self._queue: OrderedDict[_Run, None] = OrderedDict()

    def __len__(self) -> int:
        """Blocks held."""
        return self._size

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading ``blocks`` are held; counts as no use."""
        run = self._deepest(blocks)
        return 0 if run is None else run.start + _shared(run, blocks)

    def insert(self, blocks: Sequence[int]) -> None:
        """Hold ``blocks`` (as many as fit), evicting what was not used for longest."""
        held = 0
        run = self._deepest(blocks)
        if run is not None:
            shared = _shared(run, blocks)
            held = run.start + shared
            if shared < len(run.blocks):
                run = self._split(run, shared)
        fresh = list(blocks[held : self.capacity])
        if fresh:
            run = _Run(run, held, fresh)
            self._runs[fresh[0]] = run
            self._size += len(fresh)
        self._use(run)
        if self.capacity is not None and self._size > self.capacity:
            self._evict(self._size - self.capacity)

    def _deepest(self, blocks: Sequence[int]) -> _Run | None:
        """The last run of the path of ``blocks``: they hold at least its first block."""
        runs, count = self._runs, len(blocks)
        found: _Run | None = None
        end = 0
        while end < count:
            run = runs.get(blocks[end])
            if run is None:
                break
            found = run
            end += len(run.blocks)
            if end > count or blocks[end - 1] != run.blocks[-1]:
                break
        return found

    def _split(self, run: _Run, cut: int) -> _Run:
        """Cut ``run`` after ``cut`` blocks; returns the upper part."""
        upper = _Run(run.parent, run.start, run.blocks[:cut])
        run.parent, run.start, run.blocks = upper, run.start + cut, run.blocks[cut:]
        self._runs[upper.blocks[0]] = upper
        self._runs[run.blocks[0]] = run
        return upper

    def _use(self, run: _Run | None) -> None:
        queue = self._queue
        while run is not None:
            if run in queue:
                queue.move_to_end(run)
            else:
                queue[run] = None
            run = run.parent

    def _evict(self, excess: int) -> None:
        self._size -= excess
        while excess > 0:
            run = next(iter(self._queue))
            blocks = run.blocks
            if len(blocks) <= excess:
                excess -= len(blocks)
                del self._queue[run]
                del self._runs[blocks[0]]
            else:
                del blocks[-excess:]
                excess = 0

    def check_integrity(self) -> None:
        """Raise InvariantError where tree, queue and index disagree."""
        if self.capacity is not None and self._size > self.capacity:
            raise InvariantError("prefix cache holds more than its capacity")
        if self._size != sum(len(run.blocks) for run in self._queue):
            raise InvariantError("prefix cache blocks are miscounted")
        age = {run: i for i, run in enumerate(self._queue)}
        if age.keys() != set(self._runs.values()):
            raise InvariantError("a run is indexed but not held, or held but not indexed")
        for first, run in self._runs.items():
            parent = run.parent
            if not run.blocks or run.blocks[0] != first:
                raise InvariantError(f"block {first} does not begin its run")
            if parent is not None and age.get(parent, -1) < age[run]:
                raise InvariantError("an ancestor is older than its descendant")
            if parent is not None and parent.start + len(parent.blocks) != run.start:
                raise InvariantError("a run does not continue its parent")


def _shared(run: _Run, blocks: Sequence[int]) -> int:
    """How many blocks of ``run`` are on the path of ``blocks``: at least its first."""
    start, own = run.start, run.blocks
    low, high = 1, min(len(own), len(blocks) - start)
    if blocks[start + high - 1] == own[high - 1]:
        return high
    while low < high:
        middle = (low + high + 1) >> 1
        if blocks[start + middle - 1] == own[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
