"""The block size of a trace, told from its ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.errors import ConfigError
from prfaas.workload.blocks import block_size

prompts = st.lists(st.integers(1, 200_000), min_size=1, max_size=30)


def ids(prompts: list[int], block: int, *, partial: bool) -> list[list[int]]:
    return [list(range(-(-n // block) if partial else n // block)) for n in prompts]


@given(prompts, st.booleans())
def test_mooncakes_size_is_taken_wherever_it_fits(prompts: list[int], partial: bool) -> None:
    assert block_size(prompts, ids(prompts, 512, partial=partial)) == 512


@given(prompts, st.sampled_from([1, 16, 64, 256, 1024, 2048]), st.booleans())
def test_another_size_is_found_or_asked_for_and_accepted_when_told(
    prompts: list[int], block: int, partial: bool
) -> None:
    blocks = ids(prompts, block, partial=partial)
    if not any(blocks):
        assert block_size(prompts, blocks) == 512
        return
    assert block_size(prompts, blocks, told=block) == block
    try:
        found = block_size(prompts, blocks)
    except ConfigError as error:
        assert "say how many with block_tokens" in str(error)  # noqa: PT017
    else:
        assert found in (512, block)


def test_long_prompts_leave_one_size() -> None:
    assert block_size([100_000, 521], ids([100_000, 521], 16, partial=True)) == 16


def test_short_prompts_leave_several_and_they_are_named() -> None:
    with pytest.raises(ConfigError, match=r"a block may have 17 to 24 tokens"):
        block_size([100], [[1, 2, 3, 4, 5]])
    assert block_size([100], [[1, 2, 3, 4, 5]], told=20) == 20


def test_ids_that_fit_nothing_and_a_size_that_does_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="fit no block size"):
        block_size([1000, 1000], [[1], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
    with pytest.raises(ConfigError, match="blocks of 512 tokens do not fit; 16 would"):
        block_size([100_000], ids([100_000], 16, partial=True), told=512)


def test_prompts_without_ids_say_nothing() -> None:
    assert block_size([5000, 700], [[], [1, 2]]) == 512
    assert block_size([5000], [[]]) == block_size([5000], [[]], told=512) == 512
    assert block_size([5000], [[]], told=64) == 64
