"""The table of blocks: room is made by leaves, a block's ancestors stay."""

from __future__ import annotations

from itertools import pairwise

from prfaas.index.cache_events import BlocksStored
from prfaas.index.engine_index import EngineIndex
from prfaas.index.keys import PromptKeys
from prfaas.index.prefix_index import PrefixIndex

ROOM = 40


def store(engine: EngineIndex, prompt: list[int], name: int) -> None:
    """A prompt in blocks of two, called ``name`` and the numbers after it."""
    count = len(prompt) // 2
    engine.stored(
        BlocksStored(
            group=0,
            kind="full_attention",
            block_tokens=2,
            hashes=list(range(name, name + count)),
            parent=None,
            token_ids=prompt,
        )
    )


def matched(index: PrefixIndex, prompt: list[int]) -> int:
    found = index.match(PromptKeys([*prompt, 0]))
    return found[0].match.reusable_tokens if found else 0


def test_leaves_go_before_roots_and_what_is_asked_for_stays() -> None:
    index = PrefixIndex(max_blocks=ROOM)
    engine = index.engine("e")
    shared = [1, 2, 3, 4]
    for number in range(100):
        own = [*shared, number, number, number, number]
        store(engine, own[:4] + own[4:], 1000 + 10 * number)
        assert matched(index, [*shared, 0, 0, 0, 0]) >= 4
        assert matched(index, own) == 8
        index.check_integrity()
    assert index.blocks <= ROOM
    assert engine.blocks == index.blocks
    assert engine.unplaced_blocks_total == 0


def test_room_is_made_ahead() -> None:
    index = PrefixIndex(max_blocks=64)
    engine = index.engine("e")
    for number in range(64):
        store(engine, [number, number], number)
    assert index.blocks == 64
    while index.tidy():
        index.check_integrity()
    assert index.blocks == 62


def test_a_chain_longer_than_the_table_is_kept_as_far_as_it_fits() -> None:
    index = PrefixIndex(max_blocks=ROOM)
    engine = index.engine("e")
    prompt = list(range(4 * ROOM))
    store(engine, prompt, 0)
    assert matched(index, prompt) == 2 * ROOM
    assert engine.unplaced_blocks_total == ROOM
    index.check_integrity()


def test_a_block_that_only_its_children_need_is_there_until_they_go() -> None:
    index = PrefixIndex(max_blocks=ROOM)
    engine = index.engine("e")
    store(engine, [1, 2, 3, 4, 5, 6], 10)
    engine.removed(0, [10, 11])
    assert (engine.blocks, index.blocks) == (1, 3)
    assert matched(index, [1, 2, 3, 4, 5, 6]) == 0
    engine.removed(0, [12])
    assert index.blocks == 0
    index.check_integrity()


def test_of_many_blocks_that_only_one_needed_some_go_at_a_time() -> None:
    """Whoever tells that the last one goes after all before it has nobody wait."""
    index = PrefixIndex(max_blocks=6000)
    engine = index.engine("e")
    prompt = list(range(10_000))
    store(engine, prompt, 1)
    engine.removed(0, list(range(1, 5000)))
    assert index.blocks == 5000
    engine.removed(0, [5000])
    seen = [5000, index.blocks]
    assert matched(index, prompt) == 0
    while index.tidy():
        seen.append(index.blocks)
        index.check_integrity()
    assert seen[-1] == 0
    assert max(before - after for before, after in pairwise(seen)) <= 1024


def test_blocks_that_are_still_to_go_make_room_first_and_are_held_again() -> None:
    index = PrefixIndex(max_blocks=6000)
    engine = index.engine("e")
    prompt, other = list(range(10_000)), [7, *range(3, 6000)]
    store(engine, other, 8000)
    engine.removed(0, list(range(8000, 11_000)))
    store(engine, prompt[:4000], 1)
    assert index.blocks < 5000, "nobody holds the others"
    store(engine, other[:1000], 20_000)
    store(engine, prompt, 1)
    assert (engine.blocks, matched(index, prompt), matched(index, other)) == (5500, 10_000, 1000)
    index.check_integrity()
    while index.tidy():
        index.check_integrity()
    assert (engine.blocks, matched(index, prompt), matched(index, other)) == (5500, 10_000, 1000)


def test_a_cleared_engine_is_forgotten_at_once_and_its_memory_by_and_by() -> None:
    index = PrefixIndex(max_blocks=ROOM, max_engines=2)
    one, other = index.engine("one"), index.engine("other")
    store(one, [1, 2, 3, 4], 10)
    store(other, [1, 2], 10)
    for _ in range(50):  # More often than there are ids.
        one.clear()
        assert [names for names, _ in index.match(PromptKeys([1, 2, 3, 4, 0]))] == [["other"]]
        store(one, [1, 2, 3, 4], 10)
    one.clear()
    while index.tidy():
        pass
    assert index.blocks == 1
    index.check_integrity()


def test_engines_that_hash_otherwise_share_the_block_all_the_same() -> None:
    index = PrefixIndex(max_blocks=ROOM, max_engines=2)
    one, other = index.engine("one"), index.engine("other")
    store(one, [1, 2, 3, 4], 10)
    store(other, [1, 2, 3, 4], 20)
    assert index.blocks == 2
    one.removed(None, [11])
    found = {tuple(names): match.reusable_tokens for names, match in index.match(
        PromptKeys([1, 2, 3, 4, 0])
    )}  # fmt: skip
    assert found == {("one",): 2, ("other",): 4}
    other.removed(None, [20, 21])
    assert (one.blocks, other.blocks, index.blocks) == (1, 0, 1)
    index.check_integrity()
