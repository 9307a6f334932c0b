"""A prompt's cached parts, found by where they end."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from prfaas.core.cache_news import Stored
from prfaas.core.prefixes import DIGEST_BYTES, Prefix
from prfaas.gateway import part_ends
from prfaas.gateway.part_ends import PartEnds
from prfaas.index.keys import Keys

BLOCK = 4


def keys(*low: int) -> Keys:
    words = np.array(low, np.uint64)
    return Keys(words, words + np.uint64(1000))


def part(name: str, *low: int, start: int = 0, size: int = BLOCK) -> Stored:
    names = tuple(bytes([word]) * DIGEST_BYTES for word in low)
    packed = np.array(keys(*low), "<u8").tobytes()
    return Stored(name, 0, 1, "layout", Prefix(size, start, bytes(DIGEST_BYTES), names, packed))


def ends_of(*parts: Stored) -> PartEnds:
    ends = PartEnds()
    for news in parts:
        ends.add((news.transfer_id, 0, 1), news)
    return ends


def found(ends: PartEnds, *low: int) -> list[str]:
    return [news.transfer_id for news in ends.of_prompt(lambda size: keys(*low))]


def test_parts_that_end_in_the_prompt_are_found_and_no_others() -> None:
    ends = ends_of(
        part("all", 1, 2, 3),
        part("rest", 3, start=2 * BLOCK),
        part("first", 1),
        part("longer", 1, 2, 3, 4),
        part("other", 1, 9),
        part("elsewhere", 3),  # the same key at another place
    )
    assert found(ends, 1, 2, 3) == ["first", "all", "rest"]
    assert found(ends) == []


def test_parts_of_each_size_of_blocks_are_asked_for_with_keys_of_that_size() -> None:
    ends = ends_of(part("small", 1), part("large", 7, size=8))
    own = {BLOCK: keys(1), 8: keys(7)}
    assert {news.transfer_id for news in ends.of_prompt(own.__getitem__)} == {"small", "large"}


def test_what_was_removed_is_found_no_more_and_leaves_nothing_behind() -> None:
    one, same, bare = part("one", 1), part("same", 1), part("bare", 1)
    bare = msgspec.structs.replace(bare, prefix=msgspec.structs.replace(bare.prefix, keys=b""))
    ends = ends_of(one, same, bare)
    ends.remove(("one", 0, 1), one)
    ends.remove(("one", 0, 1), one)
    ends.remove(("bare", 0, 1), bare)
    assert found(ends, 1) == ["same"]
    ends.remove(("same", 0, 1), same)
    assert found(ends, 1) == []
    asked: list[int] = []

    def ask(size: int) -> Keys:
        asked.append(size)
        return keys(1)

    assert ends.of_prompt(ask) == []
    assert asked == []  # no size of blocks is left


def test_what_there_should_not_be_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = ends_of(*(part(str(size), 1, size=size) for size in range(1, 9)))
    assert found(ends, 1) == ["1", "2", "3", "4"]
    for size in range(1, 9):
        ends.remove((str(size), 0, 1), part(str(size), 1, size=size))
    assert not ends._by_size
    same = ends_of(*(part(str(number), 1, 2) for number in range(9)))
    monkeypatch.setattr(part_ends, "_MOST_PARTS", 3)
    assert found(same, 1, 2) == ["0", "1", "2"]
    monkeypatch.setattr(part_ends, "_MOST_BLOCKS", 5)
    assert found(same, 1, 2) == ["0", "1"]
