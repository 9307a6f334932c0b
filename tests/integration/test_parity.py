"""Token- and bit-identical to a stock engine, for every kind of KV cache and awkward length.

bfloat16 results depend on the schedule, so the stock engine is asked for the same one: one request
at a time, same chunks, same threads. A hybrid model computes its last, partial block in a step of
its own on any engine. A model without recurrent layers does so only after a prefix cache hit, so
there the stock engine is asked twice and its second answer counts.

On CPUs without AMX vLLM's MLA cannot be bit-identical, in any layout or length. Its reference
kernels compute a prompt's attention as one dense product over all of it, so how a position is
rounded depends on the prompt's length. They have neither chunks nor a prefix cache, so no stock
engine ever goes on from a cached prefix, as a decode engine does after a hand-off. All engines
there compute in float32: rounding is then thousands of times less than what a lost block does.

Where the decode engine keeps blocks that a stock engine computes again (those an answer completed,
or those before the place where two prompts part, with no state there) the schedules differ. Then a
token may differ only where the stock engine's best two nearly tie.
"""

from __future__ import annotations

from typing import Any

import pytest

from prfaas.testing.comparing import assert_close, assert_same_or_near_tie, complete, complete_both
from prfaas.testing.measuring import prompt

BLOCK, CHUNK = 256, 512
LONG = 0
"""As many tokens as this machine prefills in `LONG_S`, within `LONG_TOKENS`."""
LENGTHS = (1, 2, 255, 256, 257, 511, 512, 513, 1300, LONG)
LONG_S, LONG_TOKENS = 8.0, (2500, 16_000)
ROUTES = [
    ("gdn", "offload"),
    ("gdn", "pd-p"),
    ("sliding_window", "offload"),
    ("dense", "offload"),
    ("mla", "offload"),
]
"""Both ways of a hand-off for one kind of KV cache; for the others the way over the line."""
REFERENCE_MLA_NATS = 1e-3
"""Log-probabilities by the reference kernels for MLA may differ by this much."""
REFERENCE_MLA_LONG = 2000
"""Tokens; these kernels take minutes and 10 GiB for the longest prompts."""

pytestmark = pytest.mark.engine


def reference_kernels(stack: Any) -> bool:
    """Whether this is an MLA model on a CPU without AMX."""
    return bool(stack.block_tokens < BLOCK)


def check(
    stack: Any, route: str, ids: list[int], *, same_schedule: bool = True, cached: bool = False
) -> list[int]:
    """Compare one prompt; returns the answer's tokens. With all of it ``cached`` the decode engine
    may need no other."""
    ours, stock = stack.gateway(route), stack.plain.url
    if stack.kind == "mla":
        # Its kernel for the CPU takes gigabytes for a long prompt: not two engines at once.
        choice, taken = complete(ours, stack.model, ids)
        wanted, _ = complete(stock, stack.model, ids)
    else:
        (choice, taken), (wanted, _) = complete_both(ours, stock, stack.model, ids)
    if stack.kind != "gdn" and not reference_kernels(stack):
        # Only now has it the prefix cached, and with it the decode engine's schedule.
        wanted, _ = complete(stock, stack.model, ids)
    if not (cached and taken.startswith("direct")):
        assert taken.startswith(route if len(ids) > stack.block_tokens else "direct"), taken
    if reference_kernels(stack):
        assert_close(choice, wanted, within=REFERENCE_MLA_NATS)
    elif same_schedule:
        assert choice["token_ids"] == wanted["token_ids"]
        assert choice["logprobs"]["token_logprobs"] == wanted["logprobs"]["token_logprobs"]
    else:
        assert_same_or_near_tie(choice, wanted)
    tokens: list[int] = choice["token_ids"]
    return tokens


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, stacks: Any) -> Any:
    """Of the module's scope, so that pytest runs all tests of one model before the next."""
    return stacks.get(request.param)


@pytest.mark.parametrize("length", LENGTHS, ids=lambda length: str(length or "long"))
@pytest.mark.parametrize(("stack", "route"), ROUTES, indirect=["stack"], scope="module")
def test_identical(stack: Any, route: str, length: int) -> None:
    assert stack.chunk_tokens == CHUNK
    least, most = LONG_TOKENS
    if reference_kernels(stack):
        least = most = REFERENCE_MLA_LONG
    length = length or stack.speed.tokens_lasting(LONG_S, least=least, most=most)
    ids = prompt(f"{route} {length}", length)
    answer = check(stack, route, ids)
    if length > BLOCK:
        # The second turn of the conversation: only what is new is handed over.
        turn = ids + answer + prompt(f"{route} {length} more", length // 3)
        completed = (length + len(answer) - 1) // BLOCK > (length - 1) // BLOCK
        same = stack.kind == "gdn" and not completed
        check(stack, route, turn, same_schedule=same, cached=True)


@pytest.mark.parametrize(("stack", "route"), ROUTES, indirect=["stack"], scope="module")
def test_a_prefix_shared_at_any_length_gives_the_same_tokens(stack: Any, route: str) -> None:
    """Where two prompts part a hybrid has no state: a stock engine computes that stretch again,
    the decode engine keeps the blocks it has."""
    if reference_kernels(stack):
        pytest.skip("vLLM's MLA without AMX has no prefix cache")
    first = prompt(f"{route} fork", 2000)
    check(stack, route, first)
    fork = first[:1200] + prompt(f"{route} other", 800)
    check(stack, route, fork, same_schedule=False)
