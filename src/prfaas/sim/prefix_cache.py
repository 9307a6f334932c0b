"""A finite prefix cache over chained block hashes, least recently used out first.

Theory of operation. A block's hash names the whole prefix that ends with it (as in the Mooncake
traces and in vLLM), so what a cache holds is a tree, and a prompt's cached part is a path from its
root. Runs of blocks without a branch are one `_Node`. Using a path moves its nodes to the young end
of one queue, leaf first and root last, so an ancestor is always younger than its descendants: the
oldest node is a leaf, evicting from its tail never breaks a prefix, and "holds block k" implies
"holds blocks 0..k". The longest cached prefix is therefore found by bisection.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from prfaas.core.errors import InvariantError


class _Node:
    __slots__ = ("blocks", "parent", "start")

    def __init__(self, parent: _Node | None, start: int, blocks: list[int]) -> None:
        self.parent = parent
        self.start = start
        """How many blocks of the path come before."""
        self.blocks = blocks


class PrefixCache:
    """At most ``capacity`` blocks. Block hashes are any integers."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._owner: dict[int, _Node] = {}
        self._queue: OrderedDict[_Node, None] = OrderedDict()

    def __len__(self) -> int:
        """Blocks held."""
        return len(self._owner)

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading ``blocks`` are held; counts as no use."""
        owner = self._owner
        if not blocks or blocks[0] not in owner:
            return 0
        low, high = 1, len(blocks)
        while low < high:
            middle = (low + high + 1) >> 1
            if blocks[middle - 1] in owner:
                low = middle
            else:
                high = middle - 1
        return low

    def insert(self, blocks: Sequence[int]) -> None:
        """Hold ``blocks`` (as many as fit), evicting what was not used for longest."""
        held = self.match(blocks)
        parent = self._split(blocks, held) if held else None
        fresh = list(blocks[held : self.capacity])
        if fresh:
            node = _Node(parent, held, fresh)
            self._owner.update(dict.fromkeys(fresh, node))
            self._use(node)
        elif parent is not None:
            self._use(parent)
        excess = len(self._owner) - self.capacity
        if excess > 0:
            self._evict(excess)

    def clear(self) -> None:
        self._owner.clear()
        self._queue.clear()

    def _split(self, blocks: Sequence[int], held: int) -> _Node:
        """The node that ends exactly after ``held`` blocks, cut out of a longer one if need be."""
        node = self._owner[blocks[held - 1]]
        cut = held - node.start
        if cut == len(node.blocks):
            return node
        upper = _Node(node.parent, node.start, node.blocks[:cut])
        self._owner.update(dict.fromkeys(upper.blocks, upper))
        node.parent, node.start, node.blocks = upper, held, node.blocks[cut:]
        return upper

    def _use(self, node: _Node | None) -> None:
        queue = self._queue
        while node is not None:
            if node in queue:
                queue.move_to_end(node)
            else:
                queue[node] = None
            node = node.parent

    def _evict(self, excess: int) -> None:
        while excess > 0:
            node = next(iter(self._queue))
            gone = node.blocks[-excess:]
            for block in gone:
                del self._owner[block]
            excess -= len(gone)
            if len(gone) == len(node.blocks):
                del self._queue[node]
            else:
                del node.blocks[-len(gone) :]

    def check_integrity(self) -> None:
        """Raise InvariantError where tree, queue and index disagree."""
        if len(self._owner) > self.capacity:
            raise InvariantError("prefix cache holds more than its capacity")
        age = {node: i for i, node in enumerate(self._queue)}
        for block, node in self._owner.items():
            if block not in node.blocks or node not in age:
                raise InvariantError(f"block {block} is indexed but not held")
            parent = node.parent
            if parent is not None and age.get(parent, -1) < age[node]:
                raise InvariantError("an ancestor is older than its descendant")
            if parent is not None and parent.start + len(parent.blocks) != node.start:
                raise InvariantError("a node does not continue its parent")
