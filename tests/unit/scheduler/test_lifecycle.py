"""The transition table and what is made of it."""

from __future__ import annotations

from pathlib import Path

from prfaas.scheduler.lifecycle import (
    TABLE,
    TERMINAL,
    Action,
    State,
    Trigger,
    mermaid,
    successors,
)

DOC = Path(__file__).parents[3] / "docs" / "scheduling.md"


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    assert "\n".join(mermaid()) in DOC.read_text()


def test_every_action_and_every_trigger_is_used() -> None:
    assert {step.action for step in TABLE.values()} == set(Action)
    assert {trigger for _, trigger in TABLE} == set(Trigger)


def test_ends_are_ends_and_every_live_state_can_be_cancelled() -> None:
    after = successors()
    for state in State:
        if state in TERMINAL:
            assert after[state] == frozenset()
        else:
            assert State.CANCELLED in after[state]


def test_nothing_is_retried_after_the_first_token() -> None:
    assert successors()[State.STREAMING] == TERMINAL
