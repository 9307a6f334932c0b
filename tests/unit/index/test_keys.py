"""Keys of prefix blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.index.keyed_prefixes import keys_of_prompt
from prfaas.index.keys import BlockHasher, KnownTokens, Place, PromptKeys, encode_extra

tokens = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)
HASHER = BlockHasher(b"seed")


def keys_of(prompt: PromptKeys, block_tokens: int, hasher: BlockHasher = HASHER) -> list[Place]:
    lows, highs = [], []
    for low, high in prompt.chunks(hasher, block_tokens):
        lows += low.tolist()
        highs += high.tolist()
    return [Place(*of, depth + 1) for depth, of in enumerate(zip(lows, highs, strict=True))]


def extended(place: Place, ids: list[int], extras: list[bytes]) -> Place:
    low, high = HASHER.extend(place, np.array(ids, np.uint32), len(ids), extras)
    return Place(int(low[0]), int(high[0]), place.depth + 1)


@given(tokens, st.integers(1, 8))
def test_a_prompts_keys_are_those_of_its_blocks_before_the_last_token(
    prompt: list[int], block: int
) -> None:
    place, wanted = HASHER.root(block), []
    for start in range(0, (len(prompt) - 1) // block * block, block):
        place = extended(place, prompt[start : start + block], [])
        wanted.append(place)
    assert keys_of(PromptKeys(prompt), block) == wanted


@given(tokens, st.integers(1, 8), st.sampled_from([b"", b"extra"]))
def test_one_block_has_the_key_that_it_has_among_many(
    prompt: list[int], block: int, extra: bytes
) -> None:
    ids = (prompt * block)[:block]
    assert HASHER.extend_one(HASHER.root(block), ids, extra) == extended(
        HASHER.root(block), ids, [extra]
    )


@given(tokens, tokens)
def test_keys_depend_on_all_before_them_and_nothing_after(a: list[int], b: list[int]) -> None:
    short, long = keys_of(PromptKeys(a), 2), keys_of(PromptKeys(a + b), 2)
    assert long[: len(short)] == short
    other = keys_of(PromptKeys([(a[0] + 1) % 2**32, *a[1:], *b]), 2)
    assert not set(other) & set(long)


def test_a_long_prompt_comes_in_parts_that_go_on_from_each_other() -> None:
    ids = [number * 7919 % 1000 for number in range(3000)]
    found = keys_of(PromptKeys(ids), 2)
    assert len(found) == len(set(found)) == 1499
    low, high = HASHER.extend(HASHER.root(2), np.array(ids[:2998], np.uint32), 2)
    assert [place.low for place in found] == low.tolist()
    assert [place.high for place in found] == high.tolist()


def test_order_and_place_of_blocks_matter() -> None:
    one, other = [1, 2, 3, 4], [3, 4, 1, 2]
    assert keys_of(PromptKeys([*one, 0]), 2)[-1] != keys_of(PromptKeys([*other, 0]), 2)[-1]
    assert keys_of(PromptKeys([1, 2, 1, 2, 0]), 2)[0].low != keys_of(PromptKeys([1] * 3), 2)[0].low


def test_other_seeds_and_other_block_sizes_give_other_keys() -> None:
    prompt = PromptKeys(list(range(9)))
    assert not set(keys_of(prompt, 4)) & set(keys_of(prompt, 4, BlockHasher(b"other")))
    assert keys_of(prompt, 8)[0][:2] != keys_of(prompt, 4)[1][:2]


def test_keys_are_the_same_however_many_block_sizes_there_were() -> None:
    hasher = BlockHasher(b"seed")
    before = hasher.root(4)
    first = hasher.extend(before, np.arange(8, dtype=np.uint32), 4)
    for size in (1 << 20, (1 << 20) - 1, (1 << 20) - 2, (1 << 20) - 3):
        hasher.root(size)
    assert hasher.root(4) == before
    again = hasher.extend(before, np.arange(8, dtype=np.uint32), 4)
    assert np.array_equal(np.array(first), np.array(again))
    assert sum(hasher._factors) <= 3 << 20


def test_an_adapter_is_in_every_block_a_salt_in_the_first() -> None:
    prompt = list(range(9))
    plain, salted = PromptKeys(prompt), PromptKeys(prompt, salt="s")
    adapted = PromptKeys(prompt, adapter="a")
    assert not set(keys_of(plain, 4)) & set(keys_of(salted, 4))
    first = extended(HASHER.root(4), prompt[:4], [encode_extra(["a"])])
    assert keys_of(adapted, 4) == [first, extended(first, prompt[4:8], [encode_extra(["a"])])]
    first = extended(HASHER.root(4), prompt[:4], [encode_extra(["s"])])
    assert keys_of(salted, 4) == [first, extended(first, prompt[4:8], [encode_extra([])])]


def test_ids_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(OverflowError):
        PromptKeys([-1])


def test_for_a_prompt_of_no_whole_block_nothing_is_made() -> None:
    hasher = BlockHasher(b"seed")
    assert list(PromptKeys([1] * 16).chunks(hasher, 16)) == []
    made = keys_of_prompt(hasher, KnownTokens([1] * 15), 16, salt="s", adapter="a")
    assert not len(made.low)
    assert not len(made.high)
    assert not hasher._factors


def test_of_what_engines_mix_in_not_all_is_kept_however_long_it_is() -> None:
    hasher, tokens = BlockHasher(b"seed"), np.arange(4, dtype=np.uint32)
    first = hasher.extend(hasher.root(4), tokens, 4, [b"x" * 1_000_000])
    for number in range(20):
        hasher.extend(hasher.root(4), tokens, 4, [b"%d" % number * 1_000_000])
        assert sum(map(len, hasher._extras)) <= 8_000_000
    again = hasher.extend(hasher.root(4), tokens, 4, [b"x" * 1_000_000])
    assert np.array_equal(np.array(first), np.array(again))


def unmixed(value: int) -> int:
    """What splitmix64's finaliser, which everybody knows, makes ``value`` of."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        whole = value
        for _ in range(64 // shift):
            whole = value ^ (whole >> shift)
        value = whole * pow(factor, -1, 1 << 64) % (1 << 64)
    return value


def test_keys_of_known_prompts_do_not_tell_that_of_another() -> None:
    """Were a key the sum itself, three prompts of one block would give a fourth's away: the
    differences of what is mixed are the secret numbers times those of the tokens."""

    def low(ids: list[int]) -> int:
        return int(HASHER.extend(HASHER.root(1), np.array(ids, np.uint32), 1).low[0])

    root = HASHER.root(1).low
    one, two, three = (unmixed((low([token]) - root) % (1 << 64)) for token in (1, 2, 3))
    assert (two - one) % (1 << 64) != (three - two) % (1 << 64)


def test_blocks_of_which_one_begins_as_another_have_nothing_in_common() -> None:
    first = HASHER.extend(HASHER.root(2), np.array([1, 2, 5, 6], np.uint32), 2)
    other = HASHER.extend(HASHER.root(2), np.array([3, 4, 5, 6], np.uint32), 2)
    parts = (np.diff(first.low), np.diff(other.low), np.diff(first.high), np.diff(other.high))
    assert parts[0] != parts[1]
    assert parts[2] != parts[3]
