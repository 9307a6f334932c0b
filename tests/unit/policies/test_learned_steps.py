"""How long decode steps take and answers are, as was seen."""

from __future__ import annotations

from math import inf, nan

import pytest

from prfaas.policies.learned_steps import LearnedSteps


def seen(*observations: tuple[float, float, int], engine: str = "d1") -> LearnedSteps:
    steps = LearnedSteps()
    for batch, step_s, tokens in observations:
        steps.seen(engine, batch, step_s, tokens)
    return steps


def test_a_step_takes_longer_in_a_larger_batch() -> None:
    steps = seen((1, 0.01, 100), (11, 0.02, 100))
    assert steps.step_s("d1", 21) == pytest.approx(0.03, rel=0.02)
    assert steps.answer_s("d1", 21) == pytest.approx(3.0, rel=0.02)


def test_nothing_seen_says_nothing_and_a_stranger_counts_as_all_that_were_seen() -> None:
    assert LearnedSteps().step_s("d1", 8) == LearnedSteps().answer_s("d1", 8) == 0.0
    steps = seen((8, 0.02, 50))
    assert steps.answer_s("d2", 8) == steps.answer_s("d1", 8) == pytest.approx(1.0)


def test_one_that_was_held_up_moves_little_and_one_that_became_slow_is_believed() -> None:
    steps = seen(*[(8, 0.02, 50)] * 20)
    steps.seen("d1", 8, 30.0, 50)
    assert steps.step_s("d1", 8) < 0.03
    for _ in range(200):
        steps.seen("d1", 8, 0.2, 50)
    assert steps.step_s("d1", 8) == pytest.approx(0.2, rel=0.1)


def test_a_profile_gives_the_steps_and_the_first_answer_seen_anywhere_their_number() -> None:
    steps = LearnedSteps()
    steps.seed("d1", [(1, 0.01), (101, 0.02)])
    steps.seed("d2", [])
    assert steps.step_s("d1", 51) == pytest.approx(0.015, rel=0.02)
    assert steps.answer_s("d1", 51) == 0.0
    steps.seen("d2", 1, 0.5, 200)
    assert steps.answer_s("d1", 51) == pytest.approx(200 * 0.015, rel=0.02)


def test_a_successor_begins_with_it_and_a_profile_says_no_more() -> None:
    kept = seen(*[(8, 0.02, 50)] * 100).learned()
    steps = LearnedSteps(kept)
    steps.seed("d1", [(1, 9.0), (8, 9.0)])
    assert steps.answer_s("d1", 8) == pytest.approx(1.0)
    for _ in range(30):
        steps.seen("d1", 8, 0.002, 50)
    assert steps.step_s("d1", 8) < 0.008


@pytest.mark.parametrize("strange", [(), (1.0,) * 5, (0.0,) * 6, (1.0, nan) * 3, (inf,) * 6])
def test_what_cannot_have_been_learned_is_passed_over(strange: tuple[float, ...]) -> None:
    assert LearnedSteps({"d1": strange}).learned() == {}
