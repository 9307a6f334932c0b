"""The decode load, by Little's law."""

from __future__ import annotations

from math import inf

import pytest

from prfaas.policies.costs import LearnedCosts
from prfaas.policies.decode_load import DecodeLoad
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.policies.learned_steps import LearnedSteps
from prfaas.scheduler.state import ClusterState
from prfaas.testing.policy_views import fleet


def costs(steps: LearnedSteps) -> LearnedCosts:
    return LearnedCosts(LearnedPrefills({}), lambda begin, end: 0.0, steps=steps)


UNKNOWN = costs(LearnedSteps())


def steady(
    running: int, completed_per_s: float, seconds: int = 600
) -> tuple[DecodeLoad, ClusterState]:
    """With ``running`` answers on each of the two decode engines, for so long."""
    load, west = DecodeLoad(), fleet().cluster("west")
    for engine in west.decode_engines:
        engine.running = engine.assigned = running
    for second in range(seconds):
        west.completed = round(second * completed_per_s)
        load.look(west, UNKNOWN, float(second))
    return load, west


def now_running(load: DecodeLoad, west: ClusterState, running: int, at: float) -> None:
    """So many on each engine from then on."""
    for engine in west.decode_engines:
        engine.running = running
    load.look(west, UNKNOWN, at)


@pytest.mark.parametrize(("running", "needed"), [(0, 1), (2, 1), (5, 2), (10, 3)])
def test_engines_are_needed_for_the_load_and_its_fluctuation(running: int, needed: int) -> None:
    load, west = steady(running, 1.0)
    assert load.engines_needed(west) == needed


def test_a_load_that_rises_is_seen_at_once_and_one_that_falls_is_remembered() -> None:
    load, west = steady(2, 1.0)
    now_running(load, west, 11, 601.0)
    assert load.engines_needed(west) == 3
    now_running(load, west, 2, 602.0)
    assert load.engines_needed(west) == 3


def test_a_peak_that_has_its_slots_needs_no_engine_but_is_at_ease_with_one_more() -> None:
    load, west = steady(5, 1.0)
    now_running(load, west, 9, 601.0)
    assert load.engines_needed(west) == 2
    assert load.engines_at_ease(west) == 3


@pytest.mark.parametrize(("at_work", "spares"), [(0, True), (1, False), (2, False)])
def test_prefill_spares_an_engine_where_the_others_would_not_be_full(
    at_work: int, spares: bool
) -> None:
    load, west = DecodeLoad(), fleet().cluster("west")
    prefill = [engine for engine in west.engines if engine.role == "prefill"]
    for engine in prefill[:at_work]:
        engine.book(100, 5.0, 0.0)
    for second in range(300):
        load.look(west, UNKNOWN, float(second))
    assert load.spares_prefill(west) is spares


def test_a_newcomer_waits_for_those_before_it_at_the_pace_of_answers() -> None:
    load, west = steady(10, 2.0)
    assert load.slot_s(west) == pytest.approx(1.5 * 1 / 2.0, rel=0.05)
    west.decode_engines[0].assigned += 19
    assert load.slot_s(west) == pytest.approx(1.5 * 20 / 2.0, rel=0.05)
    west.decode_engines[1].running -= 5
    west.decode_engines[1].assigned -= 5
    assert load.slot_s(west) < 1.5 * 20 / 2.0


def test_a_free_slot_is_no_wait_whatever_is_known() -> None:
    assert DecodeLoad().slot_s(fleet().cluster("west")) == 0.0


def test_slots_that_all_have_an_owner_are_no_wait_without_end() -> None:
    """Short answers may have been seen neither to run nor to take long; who comes on top of as many
    as there are slots was refused."""
    load, west = DecodeLoad(), fleet().cluster("west")
    for engine in west.decode_engines:
        engine.running, engine.assigned = 0, engine.max_requests
    load.look(west, UNKNOWN, 0.0)
    west.completed = 5
    load.look(west, UNKNOWN, 1.0)
    assert load.slot_s(west) == 0.0
    for engine in west.decode_engines:
        engine.up = False
    assert load.slot_s(west) == inf


def test_before_the_first_answer_is_complete_what_was_learned_says_how_long_slots_are_held() -> (
    None
):
    """Of 20 slots, each held for 100 steps of 20 ms, so many are wanted that the last waits."""
    steps = LearnedSteps()
    steps.seen("west-d0", 10, 0.02, 100)
    for known, wait_s in ((UNKNOWN, 0.0), (costs(steps), 1.5 * 11 * 2.0 / 20)):
        load, west = DecodeLoad(), fleet().cluster("west")
        for engine in west.decode_engines:
            engine.running, engine.assigned = 10, 15
        load.look(west, known, 0.0)
        assert load.slot_s(west) == pytest.approx(wait_s)
