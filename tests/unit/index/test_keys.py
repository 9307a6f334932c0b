"""Keys of prefix blocks."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.index.keys import ROOT, PromptKeys, block_key, encode_extra

tokens = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)


@given(tokens, st.integers(1, 8))
def test_a_prompts_keys_are_the_chain_of_its_blocks_before_the_last_token(
    prompt: list[int], block: int
) -> None:
    key, wanted = ROOT, []
    for start in range(0, (len(prompt) - 1) // block * block, block):
        key = block_key(key, array("I", prompt[start : start + block]), encode_extra(None))
        wanted.append(key)
    assert PromptKeys(prompt).for_block_size(block) == wanted


@given(tokens, tokens)
def test_keys_depend_on_all_before_them_and_nothing_after(a: list[int], b: list[int]) -> None:
    short, long = PromptKeys(a).for_block_size(2), PromptKeys(a + b).for_block_size(2)
    assert long[: len(short)] == short
    other = PromptKeys([(a[0] + 1) % 2**32, *a[1:], *b]).for_block_size(2)
    assert not set(other) & set(long)


def test_an_adapter_is_in_every_block_a_salt_in_the_first() -> None:
    prompt = list(range(9))
    plain, salted = PromptKeys(prompt), PromptKeys(prompt, salt="s")
    adapted = PromptKeys(prompt, adapter="a")
    assert not set(plain.for_block_size(4)) & set(salted.for_block_size(4))
    first = block_key(ROOT, array("I", range(4)), encode_extra(["a"]))
    second = block_key(first, array("I", range(4, 8)), encode_extra(["a"]))
    assert adapted.for_block_size(4) == [first, second]
    first = block_key(ROOT, array("I", range(4)), encode_extra(["s"]))
    second = block_key(first, array("I", range(4, 8)), encode_extra([]))
    assert salted.for_block_size(4) == [first, second]


def test_ids_that_are_no_tokens_are_refused() -> None:
    with pytest.raises(OverflowError):
        PromptKeys([-1])
