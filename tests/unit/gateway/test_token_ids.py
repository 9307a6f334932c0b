"""Token ids that stay text until somebody asks for numbers."""

from __future__ import annotations

import json
import warnings

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.gateway.token_ids import TokenIds
from prfaas.index.keys import BlockHasher, KnownTokens, PromptKeys

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=60)


@given(IDS, st.sampled_from([(",", ":"), (", ", ": ")]), st.integers(0, 70))
def test_they_are_the_ids_of_the_text(ids: list[int], separators: object, count: int) -> None:
    text = json.dumps(ids, separators=separators).encode()  # type: ignore[arg-type]
    found = TokenIds(text)
    assert len(found) == len(ids)
    assert found.first(count).tolist() == ids[:count]
    assert found.first(1000).tolist() == ids
    assert json.loads(bytes(found.json())) == ids
    assert json.loads(msgspec.json.encode({"a": found.json(count)})) == {"a": ids[:count]}
    assert found.packed() == KnownTokens(ids).packed()


@given(IDS, st.integers(1, 5))
def test_keys_are_those_of_the_numbers(ids: list[int], block: int) -> None:
    hasher, text = BlockHasher(b"seed"), TokenIds(json.dumps(ids).encode())
    for ours, theirs in zip(
        PromptKeys(text).chunks(hasher, block), PromptKeys(ids).chunks(hasher, block), strict=True
    ):
        assert ours.low.tolist() == theirs.low.tolist()


@pytest.mark.parametrize("text", ["[1.5]", '["1"]', "[[1]]", "[-1]", "{}", "null", "1", "[1e3]"])
def test_what_is_no_list_of_whole_numbers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        TokenIds(text.encode())


@pytest.mark.parametrize("number", [2**32, 2**63, 10**40])
def test_a_number_too_large_is_told_when_it_is_looked_at(number: int) -> None:
    found = TokenIds(b"[1, %d]" % number)
    assert found.first(1).tolist() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OverflowError):
            found.first(2)
