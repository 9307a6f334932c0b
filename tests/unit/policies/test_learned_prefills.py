"""What is learned of prefill times."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.policies.costs import LearnedCosts
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.prefill_lines import Sums, lines_of

CLUSTERS = {"e0": "east", "p0": "west", "d0": "west"}


def learned() -> LearnedPrefills:
    return LearnedPrefills(CLUSTERS)


def test_learned_costs_read_what_is_learned_later() -> None:
    prefills = learned()
    costs = LearnedCosts(prefills, lambda start, end: end - start)
    prefills.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("p0", 1000) == 0.5
    assert costs.kv_bytes(4, 10) == 6


@given(
    st.lists(st.integers(1, 200_000), min_size=2, max_size=200),
    st.floats(0, 1),
    st.floats(1e-6, 1e-2),
)
def test_a_prefill_time_linear_in_the_tokens_is_learned(
    lengths: list[int], offset_s: float, s_per_token: float
) -> None:
    costs = learned()
    for tokens in lengths:
        costs.prefill_seen("p0", tokens, offset_s + s_per_token * tokens)
    mean = sum(lengths) // len(lengths)
    recent = lengths[-1] if len(set(lengths)) == 1 else mean
    wanted = offset_s + s_per_token * recent
    assert costs.prefill_s("p0", recent) == pytest.approx(wanted, rel=0.02, abs=1e-9)


def test_prompts_that_end_in_one_step_count_together() -> None:
    costs = learned()
    for _ in range(10):
        costs.prefill_seen("p0", 500, 0.1)
        costs.prefill_seen("p0", 500, 0.0)
    assert costs.prefill_s("p0", 1000) == pytest.approx(0.1, rel=0.01)


def test_an_engine_not_seen_counts_as_its_peers_and_a_cluster_not_seen_as_faster() -> None:
    costs = learned()
    assert costs.prefill_s("e0", 10_000) == costs.prefill_s("p0", 10_000) > 0
    costs.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("p0", 1000) == costs.prefill_s("d0", 1000) == 0.5
    assert costs.prefill_s("e0", 1000) < 0.5


def test_what_was_seen_is_forgotten_where_others_get_all_the_work() -> None:
    costs = learned()
    costs.prefill_seen("e0", 1000, 30.0)
    assert costs.prefill_s("e0", 1000) == 30.0
    for _ in range(300):
        costs.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("e0", 1000) == pytest.approx(0.25)


def test_what_is_long_forgotten_makes_nobody_free() -> None:
    """Sums that have faded to nothing say nothing, not that prefill takes no time."""
    costs = learned()
    costs.prefill_seen("e0", 1000, 1e-9)
    for _ in range(73_000):
        costs.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("e0", 1000) == pytest.approx(0.25)


def test_one_that_took_very_long_is_no_rule_but_several_in_a_row_are() -> None:
    costs = learned()
    for _ in range(20):
        costs.prefill_seen("p0", 1000, 1.0)
    costs.prefill_seen("p0", 1000, 500.0)
    assert costs.prefill_s("p0", 1000) < 1.2
    for _ in range(3):
        costs.prefill_seen("p0", 1000, 1.0)
    for _ in range(10):
        costs.prefill_seen("p0", 1000, 50.0)
    assert costs.prefill_s("p0", 1000) > 5.0


def test_a_successor_begins_with_what_was_learned_and_is_soon_convinced_otherwise() -> None:
    costs, successor = learned(), learned()
    for tokens in (500, 1000, 2000) * 20:
        costs.prefill_seen("p0", tokens, tokens / 1000)
    successor.restore(costs.learned())
    assert successor.prefill_s("p0", 1500) == pytest.approx(1.5)
    assert successor.prefill_s("d0", 1500) == pytest.approx(1.5)
    for tokens in (500, 1000, 2000) * 10:
        successor.prefill_seen("p0", tokens, tokens / 4000)
    assert successor.prefill_s("p0", 1500) < 0.9


@pytest.mark.parametrize(
    "sums", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0, float("nan")), (-1.0, 2.0, 3.0, 4.0, 5.0)]
)
def test_what_cannot_have_been_learned_is_passed_over(sums: tuple[float, ...]) -> None:
    costs = learned()
    before = costs.prefill_s("p0", 1000)
    costs.restore({"p0": sums, "gone": (1.0, 2.0, 3.0, 4.0, 5.0)})
    assert costs.prefill_s("p0", 1000) == before
    assert costs.learned() == {}


def test_a_profile_is_where_learning_begins() -> None:
    costs = learned()
    costs.seed("p0", [(1000.0, 1.0), (2000.0, 2.0)])
    assert costs.prefill_s("p0", 1500) == pytest.approx(1.5)
    for _ in range(30):
        costs.prefill_seen("p0", 1500, 3.0)
    assert costs.prefill_s("p0", 1500) > 2.7


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(CLUSTERS)),
            st.integers(1, 9000),
            st.floats(0.001, 9),
            st.sampled_from([0.0, 1.0, 70.0]),
        ),
        max_size=400,
    )
)
def test_times_of_many_engines_are_those_of_each(
    seen: list[tuple[str, int, float, float]],
) -> None:
    costs, names, now = learned(), ["d0", "e0", "p0"], 0.0
    times = costs.prefill_times(names)
    for engine, tokens, seconds, passed in seen:
        now += passed
        costs.prefill_given(engine, now)
        if passed < 60:
            costs.prefill_seen(engine, tokens, seconds)
    more = LearnedPrefills(CLUSTERS)
    more.restore(costs.learned())
    counts = [100, 100, 7000]
    for learner, given_times in ((costs, times), (more, more.prefill_times(names))):
        one_by_one = [learner.prefill_s(n, count) for n, count in zip(names, counts, strict=True)]
        assert given_times(np.array(counts, float)).tolist() == one_by_one
    costs.engines_are({**CLUSTERS, "e1": "east"})
    assert times(np.array(counts, float)).tolist() == [
        costs.prefill_s(n, count) for n, count in zip(names, counts, strict=True)
    ]


def after_a_while(minutes: float, **seconds: float) -> LearnedPrefills:
    """Ten prefills of 1,000 tokens were seen of each of these engines; since then one a minute was
    given to ``d0``, of the other cluster."""
    costs = LearnedPrefills({"e0": "east", "e1": "east", "p0": "west", "d0": "west"})
    for engine, each_s in seconds.items():
        for _ in range(10):
            costs.prefill_seen(engine, 1000, each_s)
    for engine in seconds:
        costs.prefill_given(engine, 0.0)
    for minute in range(int(minutes)):
        costs.prefill_given("d0", 60.0 * (minute + 1))
    return costs


def test_what_was_seen_of_an_engine_counts_for_ten_minutes_without_work_and_then_fades() -> None:
    times = [after_a_while(minutes, e0=10.0, p0=1.0).prefill_s("e0", 1000) for minutes in range(60)]
    assert times[:11] == pytest.approx([10.0] * 11)
    assert times == sorted(times, reverse=True)
    assert all(after > 0.6 * before for before, after in pairwise(times)), "no jump"
    assert times[30] < 1.0
    assert times[-1] == pytest.approx(0.5, rel=0.01), "as a cluster that was never seen"


def test_where_others_of_its_cluster_have_work_it_becomes_one_of_them() -> None:
    costs = after_a_while(0, e0=10.0, e1=2.0, p0=1.0)
    for minute in range(60):
        costs.prefill_given("e1", 60.0 * minute)
    assert costs.prefill_s("e1", 1000) == 2.0
    assert costs.prefill_s("e0", 1000) == pytest.approx(2.0, rel=0.01)


def test_one_prompt_tries_an_engine_and_what_is_seen_of_it_counts_most() -> None:
    costs = after_a_while(30, e0=10.0, p0=1.0)
    costs.prefill_given("e0", 1860.0)
    assert costs.prefill_s("e0", 1000) == pytest.approx(10.0), "until then nobody else is sent"
    costs.prefill_seen("e0", 1000, 0.5)
    assert costs.prefill_s("e0", 1000) < 0.6
    assert costs.prefill_s("e1", 1000) == pytest.approx(costs.prefill_s("e0", 1000))


def test_time_without_prompts_tells_nothing_of_engines() -> None:
    costs = after_a_while(5, e0=10.0, p0=1.0)
    costs.prefill_given("d0", 86_400.0)
    assert costs.prefill_s("e0", 1000) == pytest.approx(10.0)


def test_the_idle_are_idle_also_when_engines_join_and_after_years() -> None:
    costs = after_a_while(20, e0=10.0, p0=1.0)
    before = costs.prefill_s("e0", 1000)
    costs.engines_are({"e0": "east", "p0": "west", "d0": "west", "d1": "west"})
    assert costs.prefill_s("e0", 1000) == pytest.approx(before)
    for minute in range(10_000):
        costs.prefill_given("d1", 60.0 * (100 + minute))
    assert costs.prefill_s("e0", 1000) == pytest.approx(0.5, rel=0.001)
    assert costs.prefill_s("p0", 1000) == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.integers(1, 200_000), st.floats(1e-6, 1e4)),
        min_size=1,
        max_size=30,
    )
)
def test_lines_side_by_side_are_those_of_each(seen: list[tuple[float, int, float]]) -> None:
    sums = Sums()
    for weight, tokens, seconds in seen:
        sums.add(weight + 0.1, tokens, seconds)
    columns = np.array([sums.values, sums.values]).T
    assert [pair.tolist() for pair in lines_of(columns)] == [[value] * 2 for value in sums.line()]
