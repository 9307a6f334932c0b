"""The threshold that balances both sides, found on prompts as they come."""

from __future__ import annotations

import pytest

from prfaas.policies.line_rate import LineRate
from prfaas.policies.threshold_search import search_threshold, usual_lengths
from prfaas.scheduler.fleet import FleetState
from prfaas.testing.policy_views import fleet

LENGTHS = list(range(100, 10_100, 100))
"""A hundred prompts. East: one engine of 4,000 tokens/s; west: two of 1,000 each."""


def threshold(view: FleetState, lengths: list[int] = LENGTHS) -> int:
    found = search_threshold(view, view.cluster("west"), lengths)
    assert found is not None
    return found.threshold_tokens


def fast_line() -> FleetState:
    view = fleet()
    view.links["east", "west"].rate = LineRate(1e12)
    return view


def test_both_sides_are_as_busy_at_the_optimum() -> None:
    """Work is proportional to tokens: a third of them belongs in the west."""
    view = fast_line()
    cut = threshold(view)
    below = sum(length for length in LENGTHS if length <= cut)
    assert below / sum(LENGTHS) == pytest.approx(1 / 3, abs=0.02)


def test_no_other_threshold_carries_more() -> None:
    view = fleet()
    found = search_threshold(view, view.cluster("west"), LENGTHS)
    assert found is not None
    costs, rate = view.costs, view.links["east", "west"].rate_bytes_per_s
    for cut in range(0, 10_100, 100):
        above = [n for n in LENGTHS if n > cut]
        below = [n for n in LENGTHS if n <= cut]
        seconds = max(
            sum(costs.prefill_s("e0", n) for n in above),
            sum(costs.kv_bytes(0, n) for n in above) / rate,
            sum(costs.prefill_s("p0", n) for n in below) / 2,
        )
        assert len(LENGTHS) / seconds <= found.prompts_per_s * (1 + 1e-9)


def test_a_slower_line_leaves_it_to_the_longest() -> None:
    view = fleet()
    before = threshold(view)
    view.links["east", "west"].rate.take(1e5, 0.0)
    found = search_threshold(view, view.cluster("west"), LENGTHS)
    assert found is not None
    assert found.bound in ("line", "PD prefill")
    assert found.threshold_tokens > before


def test_an_engine_that_turns_to_decode_lowers_it() -> None:
    view = fast_line()
    before = threshold(view)
    view.engines["p1"].up = False
    assert threshold(view) < before


def test_without_a_line_or_an_engine_there_is_none() -> None:
    view = fleet()
    view.links["east", "west"].up = False
    assert search_threshold(view, view.cluster("west"), LENGTHS) is None
    view = fleet()
    for engine in view.engines.values():
        engine.up = False
    assert search_threshold(view, view.cluster("west"), LENGTHS) is None


def test_before_any_prompt_was_seen_they_are_the_papers() -> None:
    lengths = usual_lengths()
    assert sorted(lengths)[len(lengths) // 2] == pytest.approx(19_900, rel=0.05)
    assert threshold(fleet(), lengths) > 0
