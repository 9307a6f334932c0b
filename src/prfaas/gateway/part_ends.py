"""An agent's cached parts by where they end, so that a prompt's are found without a look at others.

A key of a block stands for the whole prefix up to its end. A part whose last block has a prompt's
key there has tokens of this prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prfaas.core.cache_news import Stored
from prfaas.core.prefixes import Prefix
from prfaas.index.keyed_prefixes import keys_of
from prfaas.index.keys import Keys

Part = tuple[str, int, int]
"""Transfer id, rank, epoch."""
_MOST_SIZES, _MOST_PARTS, _MOST_BLOCKS = 4, 1024, 1 << 17
"""Of blocks, which are of one size in a layout; of one prompt's parts, and of blocks in them. A
conversation has a part for each turn."""
_End = tuple[int, int, int]
"""Number of its last block in the prompt, and that block's key, low and high word."""


class PartEnds:
    """Not thread-safe. A part without keys is in no prompt: it is left out. So is what there should
    not be: it would be looked through for each prompt."""

    def __init__(self) -> None:
        self._by_size: dict[int, dict[_End, dict[Part, Stored]]] = {}
        """By tokens a block, then by end."""

    def add(self, part: Part, news: Stored) -> None:
        """``part`` is not in here."""
        end, size = _end(news.prefix), news.prefix.block_tokens
        if end is not None and (size in self._by_size or len(self._by_size) < _MOST_SIZES):
            self._by_size.setdefault(size, {}).setdefault(end, {})[part] = news

    def remove(self, part: Part, news: Stored) -> None:
        """As it was added; harmless where it was left out."""
        size, end = news.prefix.block_tokens, _end(news.prefix)
        ends = self._by_size.get(size, {})
        if end is None or end not in ends:
            return
        ends[end].pop(part, None)
        if not ends[end]:
            del ends[end]
        if not ends:
            del self._by_size[size]

    def of_prompt(self, keys: Callable[[int], Keys]) -> list[Stored]:
        """Parts of which a prompt has every token, by where they end: one look for each of its
        blocks. ``keys``: the prompt's, by tokens a block."""
        return list(self._found(keys))

    def _found(self, keys: Callable[[int], Keys]) -> Iterator[Stored]:
        parts_left, blocks_left = _MOST_PARTS, _MOST_BLOCKS
        for size, ends in self._by_size.items():
            own = keys(size)
            words = zip(own.low.tolist(), own.high.tolist(), strict=True)
            for last, (low, high) in enumerate(words):
                for news in ends.get((last, low, high), {}).values():
                    parts_left -= 1
                    blocks_left -= len(news.prefix.digests)
                    if parts_left < 0 or blocks_left < 0:
                        return
                    yield news

    def clear(self) -> None:
        """Nothing is in here any more."""
        self._by_size.clear()


def _end(prefix: Prefix) -> _End | None:
    own = keys_of(prefix)
    if own is None or not len(own.low):
        return None
    last = prefix.end_token // prefix.block_tokens - 1
    return last, int(own.low[-1]), int(own.high[-1])
