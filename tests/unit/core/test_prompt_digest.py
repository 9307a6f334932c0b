"""A digest is the same for the same prompt alone."""

from __future__ import annotations

import itertools

import pytest

from prfaas.core.errors import CallerError
from prfaas.core.prompt_digest import PROMPT_DIGEST, prompt_digest

TOKENS = [1, 2, 3, 4]


def test_what_decides_a_kv_cache_decides_the_digest() -> None:
    digests = [
        prompt_digest(TOKENS, to_token=4),
        prompt_digest(TOKENS, to_token=3),
        prompt_digest([1, 2, 3, 5], to_token=4),
        prompt_digest([2, 1, 3, 4], to_token=4),
        prompt_digest([1 + (2 << 32), 3, 4], to_token=3),
        prompt_digest(TOKENS, to_token=4, salt="a"),
        prompt_digest(TOKENS, to_token=4, salt=""),
        prompt_digest(TOKENS, to_token=4, adapter="a"),
        prompt_digest(TOKENS, to_token=4, salt="a", adapter="b"),
        prompt_digest(TOKENS, to_token=4, salt="b", adapter="a"),
        prompt_digest(TOKENS, to_token=4, salt="ab"),
    ]
    assert all(PROMPT_DIGEST.match(digest) for digest in digests)
    assert all(one != other for one, other in itertools.combinations(digests, 2))


def test_tokens_behind_the_boundary_do_not_matter() -> None:
    exported = prompt_digest(TOKENS, to_token=3, salt="s")
    assert exported == prompt_digest([1, 2, 3, 9, 9], to_token=3, salt="s")
    assert exported == prompt_digest((1, 2, 3), to_token=3, salt="s")


def test_it_is_the_same_on_every_machine() -> None:
    assert prompt_digest(range(16), to_token=16) == "551f5ae7aea6d412f7159889d0ccb52d"


@pytest.mark.parametrize("tokens", [[1], [1, "2"], [1, 1 << 70]])
def test_what_is_no_prompt_is_refused(tokens: list[int]) -> None:
    with pytest.raises(CallerError):
        prompt_digest(tokens, to_token=2)
