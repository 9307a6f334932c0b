"""What one agent has cached in one layout, as part of a prefix index.

Its holder there has everything; where it has a disk a second holder has what lies in memory. A
prefix's beginning is used whenever its end is, so memory evicts the end first: what the second
holder has of a prompt lies in memory, and the rest of what the first has on disk. The second one
begins when something is first told to lie on disk. By then millions of blocks may lie in memory,
which would take it seconds: it is given some of them with each thing that is told, and not asked
before it has all.

One part may have as many blocks as a line has room for, which would take a second. So whatever
changes what is held pauses between some of its blocks and the next. It has to be run to its end
before anything else is told, or `Holding.clear` follows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from prfaas.core.cache_news import Stored
from prfaas.core.prefixes import Prefix
from prfaas.gateway.part_ends import Part, PartEnds
from prfaas.index.cache_events import BlocksKeyed, BlocksStored
from prfaas.index.engine_index import EngineIndex
from prfaas.index.keyed_prefixes import keys_of
from prfaas.index.keys import Keys
from prfaas.index.words import word_of

_BLOCKS, _STATES = 0, 1
"""Groups of a holder."""
_AT_ONCE = 4096
"""Blocks that the second holder is given at a time: ten milliseconds."""
_PIECE = 1024
"""Blocks that are placed or dropped in one go: some milliseconds."""


class _Holder:
    """Of the index. A block may lie in several parts, and a part may be told before the one that it
    follows: it is placed when that one is."""

    def __init__(self, index: EngineIndex) -> None:
        self._index = index
        self._blocks: Counter[bytes] = Counter()
        self._states: Counter[bytes] = Counter()
        self._early: dict[bytes, dict[Part, Stored]] = {}
        """By the name that they follow."""

    def add(self, news: Stored) -> Iterator[None]:
        """It is not in here. With pauses, see the module; so is `remove`."""
        self._blocks.update(news.prefix.digests)
        if news.stands_at is not None:
            state = _state(news)
            self._index.stored(
                BlocksStored(
                    group=_STATES,
                    kind="mamba",
                    block_tokens=news.prefix.block_tokens,
                    hashes=state,
                    parent=None,
                    token_ids=(),
                )
            )
            self._states.update(state)
        waiting = [news]
        while waiting:
            part = waiting.pop()
            placed = yield from self._place(part)
            if not placed:
                self._early.setdefault(part.prefix.parent, {})[part_of(part)] = part
            elif self._early:
                for name in part.prefix.digests:
                    waiting += self._early.pop(name, {}).values()

    def remove(self, news: Stored) -> Iterator[None]:
        """As it was added."""
        prefix = news.prefix
        early = self._early.get(prefix.parent, {})
        if early.pop(part_of(news), None) is not None and not early:
            del self._early[prefix.parent]
        yield from self._drop(_BLOCKS, self._blocks, prefix.digests)
        yield from self._drop(_STATES, self._states, _state(news))

    def clear(self) -> None:
        """Nothing is in here any more."""
        self._blocks.clear()
        self._states.clear()
        self._early.clear()
        self._index.clear()

    def _place(self, news: Stored) -> Generator[None, None, bool]:
        """False where it is not known what it follows, or there is no room."""
        prefix = news.prefix
        keys, parent = keys_of(prefix), None
        if keys is None:
            return True
        if prefix.from_token:
            parent = word_of(prefix.parent)
        before = self._index.unplaced_blocks_total
        for here in _pieces(prefix.digests):
            if here.start:
                yield
            names = [word_of(digest) for digest in prefix.digests[here]]
            self._index.stored_keyed(
                BlocksKeyed(
                    group=_BLOCKS,
                    kind="full_attention",
                    block_tokens=prefix.block_tokens,
                    names=np.array(names, np.uint64).tobytes(),
                    parent=parent,
                    keys=np.array((keys.low[here], keys.high[here]), np.uint64).tobytes(),
                )
            )
            if self._index.unplaced_blocks_total != before:
                return False
            parent = names[-1]
        return True

    def _drop(self, group: int, counts: Counter[bytes], names: tuple[bytes, ...]) -> Iterator[None]:
        for here in _pieces(names):
            if here.start:
                yield
            counts.subtract(names[here])
            gone = [name for name in names[here] if counts[name] <= 0]
            for name in gone:
                del counts[name]
            if gone:
                self._index.removed(group, gone)


class Holding:
    """See the module.

    Args:
        admit: makes a holder of the index: ``False`` for what lies anywhere, ``True`` for what lies
            in memory, once for each.
    """

    def __init__(self, admit: Callable[[bool], EngineIndex]) -> None:
        self._admit = admit
        self._anywhere = _Holder(admit(False))
        self._memory: _Holder | None = None
        self._waiting: OrderedDict[Part, None] = OrderedDict()
        """What lies in memory and the second holder has not been given."""
        self._parts: dict[Part, Stored] = {}
        self._ends = PartEnds()
        self.blocks = 0
        """Of all parts together."""

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def has_disk(self) -> bool:
        """Whether anything was told to lie there, and it is known what does."""
        return self._memory is not None and not self._waiting

    def stored(self, news: Stored) -> Iterator[None]:
        """Harmless where it is known. What was told otherwise before is there no more. With pauses,
        see the module; so are `evicted` and `go_on`."""
        if news.prefix.fault() is not None:
            return
        part = part_of(news)
        before = self._parts.get(part)
        if before is not None and _is_of(before) != _is_of(news):
            yield from self.evicted(part)
            before = None
        self._parts[part] = news
        if before is None:
            self.blocks += len(news.prefix.digests)
            yield from self._anywhere.add(news)
        else:
            self._ends.remove(part, before)
        self._ends.add(part, news)
        yield from self._move(before, news)

    def of_prompt(self, keys: Callable[[int], Keys]) -> list[Stored]:
        """Parts of which this prompt has every token. ``keys``: its own, by the size of blocks."""
        return self._ends.of_prompt(keys)

    def evicted(self, part: Part) -> Iterator[None]:
        """Harmless where it is not known."""
        news = self._parts.pop(part, None)
        if news is not None:
            self.blocks -= len(news.prefix.digests)
            self._ends.remove(part, news)
            yield from self._anywhere.remove(news)
            if self._memory is not None and news.tier == "memory":
                yield from self._leaves_memory(self._memory, news)

    def go_on(self) -> Iterator[None]:
        """Give the second holder some of what it lacks."""
        blocks = 0
        while self._waiting and blocks < _AT_ONCE:
            assert self._memory is not None
            part = next(iter(self._waiting))
            yield from self._memory.add(self._parts[part])
            del self._waiting[part]
            blocks += len(self._parts[part].prefix.digests)

    def clear(self) -> None:
        """Nothing of it is known any more."""
        self.blocks = 0
        self._parts.clear()
        self._waiting.clear()
        self._ends.clear()
        self._anywhere.clear()
        if self._memory is not None:
            self._memory.clear()

    def _move(self, before: Stored | None, news: Stored) -> Iterator[None]:
        """Bring what lies in memory up to date; while nothing lies elsewhere, all does."""
        if self._memory is None:
            if news.tier == "memory":
                return
            self._memory = _Holder(self._admit(True))
            in_memory = (part for part, told in self._parts.items() if told.tier == "memory")
            self._waiting = OrderedDict.fromkeys(in_memory)
            return
        was, now = before is not None and before.tier == "memory", news.tier == "memory"
        if now and not was:
            yield from self._memory.add(news)
        elif was and not now:
            assert before is not None
            yield from self._leaves_memory(self._memory, before)

    def _leaves_memory(self, memory: _Holder, news: Stored) -> Iterator[None]:
        part = part_of(news)
        if part in self._waiting:
            del self._waiting[part]
        else:
            yield from memory.remove(news)


def part_of(news: Stored) -> Part:
    """Its name at its agent."""
    return news.transfer_id, news.rank, news.epoch


def _pieces(names: Sequence[bytes]) -> Iterator[slice]:
    """What of them is done in one go, one after the other."""
    for start in range(0, len(names), _PIECE):
        yield slice(start, start + _PIECE)


def _is_of(news: Stored) -> tuple[Prefix, int | None]:
    """All but where it lies."""
    return news.prefix, news.stands_at


def _state(news: Stored) -> tuple[bytes, ...]:
    """The name of the prefix from whose end an engine can go on, where it is one of the blocks."""
    prefix = news.prefix
    block = ((news.stands_at or 0) - prefix.from_token) // prefix.block_tokens - 1
    return prefix.digests[block : block + 1] if 0 <= block < len(prefix.digests) else ()
