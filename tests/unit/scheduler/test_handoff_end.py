"""Where a hand-off ends: by the layout and the costs."""

from __future__ import annotations

from math import inf

import pytest

from prfaas.core.layout import KvGroup, KvLayout, LayerLayout
from prfaas.policies.costs import ProfileCosts
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.handoff_end import SHORT_TAIL_TOKENS, handoff_end
from prfaas.testing.scheduler_driver import Driver

BLOCK = 2048
ENGINES = ("east-1", "west-p0", "west-d0")
COSTS = ProfileCosts({"d": lambda n: n / 20_000}, lambda n: 50e6 + 8e3 * n)
"""20,000 tokens/s; states of 50 MB, 8 kB a token."""


def end(total: int, *, from_token: int = 0, bytes_per_s: float = inf) -> int:
    return handoff_end(
        total,
        from_token,
        boundary=(total - 1) // BLOCK * BLOCK,
        costs=COSTS,
        decode_engine="d",
        bytes_per_s=bytes_per_s,
    )


def test_a_long_tail_is_handed_over_where_the_line_is_faster_than_the_engine() -> None:
    """4,000 tokens: 1,952 of tail, 98 ms of the engine. The line: 16 MB, at 1 GB/s 16 ms."""
    assert end(4000) == end(4000, bytes_per_s=1e9) == 3999
    assert end(4000, bytes_per_s=1e8) == 2048


def test_a_prompt_of_less_than_a_block_is_handed_over_where_that_is_faster() -> None:
    """1,500 tokens: 75 ms; the line: 62 MB."""
    assert end(1500, bytes_per_s=1e9) == 1499
    assert end(1500, bytes_per_s=0.5e9) == 0


@pytest.mark.parametrize("tail", [1, 2, SHORT_TAIL_TOKENS])
def test_a_short_tail_is_left_to_the_decode_engine(tail: int) -> None:
    assert end(BLOCK + tail) == BLOCK
    assert end(BLOCK + SHORT_TAIL_TOKENS + 1) == BLOCK + SHORT_TAIL_TOKENS


@pytest.mark.parametrize(
    ("total", "expected"),
    [(1, 0), (2, 0), (BLOCK, BLOCK - 1), (BLOCK + 1, BLOCK), (2 * BLOCK, 2 * BLOCK - 1)],
)
def test_at_a_blocks_end(total: int, expected: int) -> None:
    """The decode engine always computes the last token: a whole block is not handed over whole."""
    assert end(total) == expected


def layout(state_tokens: int) -> KvLayout:
    layer = LayerLayout(name="l.0", index=0, page_bytes=64, dtype="uint8", shape=(64,))
    state = LayerLayout(name="l.1", index=1, page_bytes=64, dtype="uint8", shape=(64,))
    return KvLayout(
        model="m",
        groups=(
            KvGroup(kind="full_attention", block_tokens=BLOCK, layers=(layer,)),
            KvGroup(kind="recurrent", block_tokens=state_tokens, layers=(state,)),
        ),
    )


def started(out: list[c.AnyCommand]) -> c.StartPrefill:
    (start,) = [command for command in out if isinstance(command, c.StartPrefill)]
    return start


def test_the_prefill_engine_is_told_that_it_is_exact() -> None:
    driver = Driver()
    driver(e.LayoutKnown(layout(BLOCK), ENGINES))
    start = started(driver.arrive(5000))
    assert (start.to_token, start.exact) == (4999, True)
    start = started(driver.arrive(1500, "short"))
    assert (start.from_token, start.to_token, start.exact) == (0, 1499, True)
    start = started(driver.arrive(4200, "tail"))
    assert (start.to_token, start.exact) == (4096, False)


def test_states_that_stand_still_elsewhere_are_handed_over_at_a_blocks_end() -> None:
    driver = Driver()
    driver(e.LayoutKnown(layout(BLOCK // 2), ENGINES))
    start = started(driver.arrive(5000))
    assert (start.to_token, start.exact) == (4096, False)
