"""The prefix cache against a plain model of itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.workload.prefix_cache import PrefixCache


def chain(*branches: int) -> list[int]:
    """Block hashes of a path: each names its whole prefix."""
    hashes: list[int] = []
    for branch in branches:
        hashes.append(hash((tuple(hashes), branch)))
    return hashes


def test_longest_prefix_is_found_and_use_keeps_it() -> None:
    cache = PrefixCache(6)
    a, b = chain(1, 2, 3, 4), chain(1, 2, 9)
    cache.insert(a)
    assert cache.match(a) == 4
    assert cache.match(b) == 2
    cache.insert(b)
    assert len(cache) == 5
    cache.insert(a)
    cache.insert(chain(5, 6))
    # b's own tail was the oldest.
    assert (cache.match(a), cache.match(b), cache.match(chain(5, 6))) == (4, 2, 2)
    cache.check_integrity()


def test_prompt_longer_than_the_cache_keeps_its_head() -> None:
    cache = PrefixCache(3)
    cache.insert(chain(*range(10)))
    assert cache.match(chain(*range(10))) == 3
    assert cache.match([]) == 0


@settings(max_examples=200)
@given(
    st.integers(1, 12),
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), max_size=30),
)
def test_any_use_keeps_prefixes_whole_and_the_newest_held(
    capacity: int, paths: list[list[int]]
) -> None:
    cache = PrefixCache(capacity)
    for path in paths:
        blocks = chain(*path)
        cache.insert(blocks)
        cache.check_integrity()
        held = cache.match(blocks)
        assert held == min(len(blocks), capacity)
        assert cache.match(blocks[:held]) == held
