"""How long engines take to begin on hand-offs, as was seen."""

from __future__ import annotations

from math import inf

import pytest

from prfaas.policies.learned_loads import LearnedLoads

MB = 1e6


def seen(**engines: list[tuple[float, float]]) -> LearnedLoads:
    loads = LearnedLoads()
    for name, observations in engines.items():
        for size, seconds in observations:
            loads.seen(name, size, seconds)
    return loads


def test_nothing_seen_costs_nothing_and_a_stranger_counts_as_all_that_were_seen() -> None:
    assert LearnedLoads().load_s("d1", MB) == 0.0
    loads = seen(d1=[(MB, 0.2), (3 * MB, 0.4)])
    assert loads.load_s("d1", 5 * MB) == pytest.approx(0.6, rel=0.02)
    assert loads.load_s("d2", 5 * MB) == loads.load_s("d1", 5 * MB)


@pytest.mark.parametrize("size", [0.0, MB])
def test_one_size_says_how_long_that_takes(size: float) -> None:
    assert seen(d1=[(size, 0.2), (size, 0.4)]).load_s("d1", size) == pytest.approx(0.3, rel=0.02)


def test_what_takes_longer_the_smaller_it_is_says_nothing_of_sizes() -> None:
    assert seen(d1=[(MB, 0.4), (3 * MB, 0.2)]).load_s("d1", 100 * MB) == pytest.approx(
        0.3, rel=0.02
    )


def test_one_that_slept_moves_little_and_one_that_became_slow_is_believed() -> None:
    loads = seen(d1=[(MB, 0.1)] * 20)
    loads.seen("d1", MB, 60.0)
    assert loads.load_s("d1", MB) < 0.15
    for _ in range(200):
        loads.seen("d1", MB, 2.0)
    assert loads.load_s("d1", MB) == pytest.approx(2.0, rel=0.1)


def test_a_successor_begins_with_it_and_soon_knows_better() -> None:
    kept = seen(d1=[(MB, 1.0)] * 100).learned()
    loads = LearnedLoads(kept)
    assert loads.load_s("d1", MB) == pytest.approx(1.0)
    for _ in range(30):
        loads.seen("d1", MB, 0.1)
    assert loads.load_s("d1", MB) < 0.3
    assert LearnedLoads({"d1": (1.0,), "d2": (0.0,) * 5, "d3": (inf,) * 5}).learned() == {}
