from __future__ import annotations

from random import Random

import numpy as np
import pytest

from prfaas.index import block_table, matching, prefix_index
from prfaas.index.cache_events import BlocksKeyed, BlocksStored
from prfaas.index.keys import PromptKeys
from prfaas.index.matching import PrefixMatch
from prfaas.index.prefix_index import PrefixIndex

BLOCK = 4
TOKENS = list(range(100, 120))


def stored(
    hashes: list[int], parent: int | None, start: int, *, group: int = 0, extra: object = None
) -> BlocksStored:
    return BlocksStored(
        group=group,
        kind="full_attention",
        block_tokens=BLOCK,
        hashes=hashes,
        parent=parent,
        token_ids=TOKENS[start : start + BLOCK * len(hashes)],
        extra_keys=extra,  # type: ignore[arg-type]
    )


def state(hashes: list[int], *, group: int = 1, span: int = 8) -> BlocksStored:
    """A recurrent group's event: its token ids span skipped blocks too."""
    return BlocksStored(
        group=group,
        kind="mamba",
        block_tokens=BLOCK,
        hashes=hashes,
        parent=None,
        token_ids=[0] * span,
    )


def window(hashes: list[int], *, tokens: int, block: int = BLOCK) -> BlocksStored:
    return BlocksStored(
        group=2,
        kind="sliding_window",
        block_tokens=block,
        hashes=hashes,
        parent=None,
        token_ids=[0] * 16,
        window_tokens=tokens,
    )


class OneEngine:
    """An index with one engine."""

    def __init__(self, max_blocks: int = 1000) -> None:
        self.all = PrefixIndex(max_blocks=max_blocks, max_engines=2)
        self.engine = self.all.engine("e")
        self.stored, self.removed = self.engine.stored, self.engine.removed
        self.clear, self.check_integrity = self.engine.clear, self.all.check_integrity

    def match(self, prompt: PromptKeys) -> PrefixMatch:
        found = self.all.match(prompt)
        return found[0].match if found else PrefixMatch()


@pytest.fixture
def index() -> OneEngine:
    return OneEngine()


def test_empty_index_matches_nothing(index: OneEngine) -> None:
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(0, 0)


def test_dense_model_chain_over_two_events(index: OneEngine) -> None:
    index.stored(stored([1, 2], None, 0))
    index.stored(stored([3], 2, 8))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(12, 12)
    assert index.match(PromptKeys(TOKENS[:11])) == PrefixMatch(8, 8)
    assert index.match(PromptKeys([*TOKENS[:5], 7, *TOKENS[6:]])) == PrefixMatch(4, 4)
    index.check_integrity()


def test_a_removed_block_ends_the_run_and_its_return_restores_it(index: OneEngine) -> None:
    index.stored(stored([1, 2, 3], None, 0))
    index.removed(0, [2])
    assert index.match(PromptKeys(TOKENS)).transferable_tokens == 4
    index.stored(stored([2], 1, 4))
    assert index.match(PromptKeys(TOKENS)).transferable_tokens == 12
    index.check_integrity()


def test_recurrent_state_is_needed_at_exactly_the_reused_length(index: OneEngine) -> None:
    index.stored(state([]))
    index.stored(stored([1, 2, 3], None, 0))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(12, 0)
    index.stored(state([2]))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(12, 8)
    index.removed(1, [2])
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(12, 0)


def test_a_state_may_be_told_before_the_blocks_it_ends(index: OneEngine) -> None:
    """After an exact hand-off: the connector enters it before vLLM enters the blocks."""
    index.stored(state([2], span=BLOCK))
    index.stored(stored([1, 2, 3], None, 0))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(12, 8)
    index.check_integrity()


def test_every_recurrent_group_must_hold_the_state(index: OneEngine) -> None:
    index.stored(stored([1, 2], None, 0))
    index.stored(state([2], group=1))
    index.stored(state([1], group=3))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(8, 0)


def test_a_state_beyond_the_run_makes_the_engine_count_on_what_it_can_reuse(
    index: OneEngine,
) -> None:
    index.stored(stored([1, 2, 3], None, 0))
    index.stored(state([1, 3]))
    index.removed(0, [3])
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(4, 4)
    index.check_integrity()


def test_beside_states_one_group_of_full_attention_may_run_ahead_two_may_not(
    index: OneEngine,
) -> None:
    """vLLM would take the deeper of the two for what both hold."""
    index.stored(stored([1, 2, 3], None, 0))
    index.stored(state([1]))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(12, 4)
    index.stored(stored([1, 2, 3], None, 0, group=4))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(4, 4)


def test_sliding_window_needs_only_what_the_next_token_sees(index: OneEngine) -> None:
    index.stored(stored([1, 2, 3, 4], None, 0))
    index.stored(window([3, 4], tokens=8))
    # cdiv(8 - 1, 4) = 2 blocks before the length: 16 is served, 12 lacks block 2.
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(16, 16)
    index.removed(2, [4])
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(0, 0)
    index.stored(window([1], tokens=8))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(4, 4)


def test_windows_and_states_together(index: OneEngine) -> None:
    index.stored(stored([1, 2, 3, 4], None, 0))
    index.stored(window([3, 4], tokens=8))
    index.stored(state([4]))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(16, 16)
    index.removed(1, [4])
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(0, 0)


def test_sliding_window_with_larger_blocks(index: OneEngine) -> None:
    index.stored(stored([1, 2, 3, 4], None, 0))
    index.stored(window([4], tokens=8, block=8))
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(16, 16)


def test_an_unknown_kind_is_never_counted_on(index: OneEngine) -> None:
    index.stored(stored([1], None, 0))
    event = BlocksStored(
        group=5, kind="chunked_local_attention", block_tokens=4, hashes=[1], parent=None,
        token_ids=TOKENS[:4],
    )  # fmt: skip
    index.stored(event)
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(0, 0)


def test_all_full_attention_groups_must_hold_a_block(index: OneEngine) -> None:
    index.stored(stored([1, 2], None, 0))
    index.stored(stored([1], None, 0, group=4))
    assert index.match(PromptKeys(TOKENS)).transferable_tokens == 4
    index.removed(None, [1])
    assert index.match(PromptKeys(TOKENS)).transferable_tokens == 0
    index.check_integrity()


def test_salt_and_adapter_separate_prefixes(index: OneEngine) -> None:
    index.stored(stored([1, 2], None, 0, extra=[["lora", "pepper"], ["lora"]]))
    assert index.match(PromptKeys(TOKENS)).transferable_tokens == 0
    assert index.match(PromptKeys(TOKENS, salt="pepper")).transferable_tokens == 0
    assert index.match(PromptKeys(TOKENS, salt="pepper", adapter="lora")).transferable_tokens == 8


def test_blocks_of_unknown_parents_or_odd_shapes_are_counted_not_placed(index: OneEngine) -> None:
    index.stored(stored([9], 8, 4))
    index.stored(stored([1], None, 0))
    odd = BlocksStored(
        group=0, kind="full_attention", block_tokens=2, hashes=[7], parent=1, token_ids=[5, 6]
    )
    index.stored(odd)
    assert index.engine.unplaced_blocks_total == 2
    assert index.engine.blocks == 1
    index.check_integrity()


def test_clear_forgets_everything(index: OneEngine) -> None:
    index.stored(stored([1, 2], None, 0))
    index.clear()
    assert index.engine.blocks == 0
    assert index.match(PromptKeys(TOKENS)) == PrefixMatch(0, 0)
    index.check_integrity()


def test_memory_is_bounded() -> None:
    index = OneEngine(max_blocks=3)
    index.stored(stored([1, 2, 3, 4, 5], None, 0))
    assert index.engine.blocks == 3
    index.check_integrity()


def test_engines_that_come_and_go_leave_nothing() -> None:
    """Ten thousand of them, in an index with room for two at a time."""
    index = PrefixIndex(max_blocks=100, max_engines=2)
    stays = index.engine("stays")
    stays.stored(stored([1, 2], None, 0))
    for number in range(10_000):
        guest = index.engine(f"guest-{number}")
        if number % 3:
            guest.stored(stored([1, 2, 3], None, 0))
        if number % 2:
            guest.clear()
        guest.leave()
    held = {
        name: m.reusable_tokens for names, m in index.match(PromptKeys(TOKENS)) for name in names
    }
    assert held == {"stays": 2 * BLOCK}
    while index.tidy():
        pass
    assert index.blocks == 2
    index.check_integrity()


@pytest.mark.parametrize("seed", range(10))
def test_sets_of_holders_have_bounds_whatever_engines_tell(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine that was taken over, each block may be held by other groups than any other."""
    most = 3000
    monkeypatch.setattr(prefix_index, "_SETS_BYTES", most)
    monkeypatch.setattr(prefix_index, "_SETS_BYTES_OF_BLOCK", 0)
    monkeypatch.setattr(block_table, "_FREED_AT_ONCE", seed % 3 + 1)
    index, rng = PrefixIndex(max_blocks=48, max_engines=8), Random(seed)
    engines = [index.engine(str(number)) for number in range(4)]
    full = 0
    for _ in range(500):
        engine, group, what = rng.choice(engines), rng.randrange(5), rng.random()
        chained, first = group < 2, rng.randrange(1, 60)
        # A tree: block n follows block n // 2.
        names = [first << n for n in range(6) if first << n < 60][: rng.randrange(1, 6)]
        if what < 0.4:
            engine.removed(rng.choice([None, group]), names)
        elif what < 0.43:
            engine.clear()
        else:
            told = np.array(names, np.uint64)
            engine.stored_keyed(
                BlocksKeyed(
                    group=group,
                    kind="full_attention" if chained else "mamba",
                    block_tokens=16,
                    names=told.tobytes(),
                    parent=first // 2 or None if chained else None,
                    keys=np.concatenate([told + np.uint64(1000), told]).tobytes() * chained,
                )
            )
        full += engine.unplaced_blocks_total
        index.check_integrity()
        assert index._sets.bytes <= most
    assert full
    for engine in engines:
        engine.clear()
    while index.tidy():
        pass
    index.check_integrity()
    assert index._sets.bytes == 0


def test_what_is_told_of_every_block_otherwise_is_looked_at_for_so_long(
    index: OneEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = index.all.engine("other")
    index.stored(stored([1, 2, 3, 4], None, 0))
    other.stored(stored([1, 2, 3, 4], None, 0))
    for number in range(1, 5):
        other.stored(state([number], group=number))
    (found,) = [m.match for m in index.all.match(PromptKeys(TOKENS)) if "e" in m.engines]
    assert found == PrefixMatch(16, 16)
    monkeypatch.setattr(matching, "_MOST_LOOKS", 3)
    (found,) = [m.match for m in index.all.match(PromptKeys(TOKENS)) if "e" in m.engines]
    assert found == PrefixMatch(12, 12)
    assert not [m for m in index.all.match(PromptKeys(TOKENS)) if "other" in m.engines]


def test_of_many_engines_none_tells_of_groups_without_number() -> None:
    index = PrefixIndex(max_blocks=100, max_engines=2000)
    engine = index.engine("e")
    engine.stored(stored([1], None, 0))
    for group in range(1, 128):
        engine.stored(state([1], group=group))
    (mask,) = {mask for mask in index._sets.masks if mask}
    assert mask.bit_length() <= 1 << 17
    assert engine.unplaced_blocks_total > 90
    engine.removed(None, [1])
    index.check_integrity()
    assert not index.blocks


def test_with_another_seed_nothing_is_known_and_all_is_learned_anew() -> None:
    one = OneEngine()
    other = one.all.engine("other")
    one.stored(stored([1, 2, 3], None, 0))
    other.stored(stored([1, 2], None, 0))
    assert one.match(PromptKeys(TOKENS)).transferable_tokens
    one.all.rekey(b"another")
    assert one.all.match(PromptKeys(TOKENS)) == []
    assert (one.engine.blocks, other.blocks) == (0, 0)
    one.check_integrity()
    one.stored(stored([3], 2, 8))  # What goes on from what is forgotten is nowhere.
    assert one.all.match(PromptKeys(TOKENS)) == []
    one.stored(stored([1, 2, 3], None, 0))
    assert one.match(PromptKeys(TOKENS)).transferable_tokens == 12
    while one.all.tidy():
        pass
    one.check_integrity()
    assert one.all.blocks == 3
