"""That the answers match means something: without the transferred bytes they do not.

By the measure of `test_parity`: whatever is lost, some of 16 tokens is another, or has another
log-probability.
"""

from __future__ import annotations

from typing import Any

import pytest

from prfaas.testing.comparing import complete
from prfaas.testing.lost_bytes import (
    Loss,
    answer_without,
    nothing,
    one_block,
    one_layer,
    one_state,
    states,
    window,
)
from prfaas.testing.measuring import prompt

pytestmark = pytest.mark.engine

LENGTHS = {"dense": 3000}
LENGTH = 1200
"""Four blocks or more, and a tail: lengths at which what is lost decides between words."""

CASES = [
    *(("gdn", lost) for lost in (nothing, states, one_state, one_block, one_layer)),
    *(("sliding_window", lost) for lost in (nothing, window, one_block, one_layer)),
    *(("dense", lost) for lost in (nothing, one_block, one_layer)),
    *(("mla", lost) for lost in (one_block, one_layer)),
]


@pytest.mark.parametrize(("kind", "lost"), CASES)
def test_what_is_lost_shows(stacks: Any, kind: str, lost: Loss) -> None:
    stack = stacks.get(kind)
    model = stack.running.deployment.model.served_name
    ids = prompt(lost.__name__, LENGTHS.get(kind, LENGTH))
    boundary = (len(ids) - 1) // stack.block_tokens * stack.block_tokens
    ours = answer_without(stack.running, lost, ids, boundary)
    complete(stack.plain.url, model, ids)  # its second answer has the decode engine's schedule
    stock, _ = complete(stack.plain.url, model, ids)
    if kind == "mla":  # Nothing of it is the same to the last bit on every CPU.
        assert ours["token_ids"] != stock["token_ids"]
    else:
        same = ours["logprobs"]["token_logprobs"] == stock["logprobs"]["token_logprobs"]
        assert same == (lost is nothing)
