"""An agent's cache in simulation: entries, where they can be gone on from, what is evicted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.workload.entry_cache import EntryCache


def hybrid(most: float = 1e9) -> EntryCache:
    return EntryCache(most, block_bytes=10.0, state_bytes=5.0)


def test_a_hybrid_goes_on_from_the_ends_of_entries_alone() -> None:
    cache = hybrid()
    cache.insert([1, 2, 3])
    assert cache.match([1, 2, 3, 4]) == 3
    assert cache.match([1, 2, 9]) == 0
    attention = EntryCache(1e9, block_bytes=10.0, state_bytes=0.0)
    attention.insert([1, 2, 3])
    assert attention.match([1, 2, 9]) == 2


def test_an_entry_is_what_is_new_and_costs_its_states() -> None:
    cache = hybrid()
    cache.insert([1, 2])
    cache.insert([1, 2, 3])
    assert (len(cache), cache.bytes) == (2, 40.0)
    cache.insert([1, 2, 3])
    assert (len(cache), cache.bytes) == (2, 40.0)


@pytest.mark.parametrize("used", [True, False])
def test_what_was_not_used_for_longest_goes_first_and_what_others_stand_on_last(used: bool) -> None:
    cache = hybrid(60.0)
    cache.insert([1])
    cache.insert([1, 2])
    cache.insert([9])
    if used:
        cache.use([1, 2])
    cache.insert([8])
    cache.insert([7])
    assert cache.match([1]) == 1 or not used
    assert (cache.match([1, 2]) == 2) is used
    assert cache.evicted == 1


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = hybrid(12.0)
    cache.insert([1])
    assert len(cache) == 0


def test_what_has_nothing_before_it_is_found_once_that_is_there() -> None:
    cache = hybrid()
    cache.insert([1, 2, 3, 4], 2)
    assert cache.match([1, 2, 3, 4]) == 0
    cache.insert([1, 2])
    assert cache.match([1, 2, 3, 4]) == 4
    assert [entry.end for entry in cache.path([1, 2, 3, 4])] == [2, 4]


def test_what_another_has_everything_of_goes() -> None:
    cache = EntryCache(1e9, block_bytes=10.0, state_bytes=0.0)
    cache.insert([1, 2])
    cache.insert([1, 2, 3], 0)
    assert (len(cache), cache.bytes) == (1, 30.0)
    states = hybrid()
    states.insert([1, 2])
    states.insert([1, 2, 3], 0)
    assert (len(states), states.match([1, 2])) == (2, 2), "its states are of another end"


def test_an_entry_takes_whole_slots() -> None:
    cache = EntryCache(1e9, block_bytes=10.0, state_bytes=0.0, granule_bytes=16, head_bytes=4)
    cache.insert([1, 2])
    assert cache.bytes == 36.0


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=40), st.booleans())
def test_books_agree(prompts: list[list[int]], states: bool) -> None:
    cache = EntryCache(70.0, block_bytes=10.0, state_bytes=5.0 if states else 0.0)
    names: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        blocks = [names.setdefault(tuple(prompt[: n + 1]), len(names)) for n in range(len(prompt))]
        cache.use(blocks)
        cache.insert(blocks)
        cache.check_integrity()
