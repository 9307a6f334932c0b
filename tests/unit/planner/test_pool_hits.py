"""Shares by tier, and their curve over memory."""

from __future__ import annotations

from math import inf

import pytest
from tests.unit.planner.pools import TEXT, site
from tests.unit.planner.test_pool_walk import DECODE, PROFILES

from prfaas.planner.pool_hits import UNBOUNDED, hit_curve, hits_of
from prfaas.planner.pool_walk import TIERS, Way, walk
from prfaas.testing.conversation_trace import conversation_trace

TRACE = conversation_trace(40, rate=0.5)
WAY = Way(12_000, 1, DECODE, 0.5)


def test_shares_are_of_all_prompt_tokens() -> None:
    walked = walk(site(TRACE), PROFILES, WAY)
    hits = hits_of(walked)
    assert hits.found == pytest.approx(sum(getattr(hits, tier) for tier in TIERS))
    assert 0.3 < hits.found < 0.9
    assert 0 < hits.fetching_share < 1
    assert 0.01 < hits.fetch_s < 1.0
    assert hits.memory == pytest.approx(float(walked.found["memory"].sum()) / sum(TRACE.prompts))


def test_more_memory_finds_more_up_to_what_there_is() -> None:
    steps: list[str] = []
    text = TEXT.replace(", disk: 100 GB", "").replace("memory: 8 GiB", "memory: 16 GiB")
    factors = (1 / 16, 1.0, 4.0, UNBOUNDED)
    curve = hit_curve(site(TRACE, text), PROFILES, WAY, factors=factors, on_step=steps.append)
    assert [point.memory_bytes for point in curve] == [1 << 30, 16 << 30, 64 << 30, inf]
    found = [point.hits.found for point in curve]
    assert found[0] < 0.5 * found[1]
    assert found[2] == pytest.approx(found[3], rel=0.01)
    assert {point.hits.disk for point in curve} == {0.0}
    assert steps[0] == f"hits with 0.0625 times the memory, request 0 of {len(TRACE.prompts)}"
