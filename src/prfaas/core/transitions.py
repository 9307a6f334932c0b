"""Lifecycles as tables, (state, step) -> next state: what is not in a table is a bug."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from prfaas.core.errors import InvariantError

State = TypeVar("State", bound=Enum)
Step = TypeVar("Step", bound=Enum)


def advance(table: Mapping[tuple[State, Step], State], state: State, step: Step) -> State:
    """The state after ``step``. Raises InvariantError where the table has no such transition."""
    try:
        return table[state, step]
    except KeyError:
        kind = type(state).__name__
        raise InvariantError(f"{kind} {state.value} got {step.value!r}") from None


def diagram(
    table: Mapping[tuple[State, Step], State],
    *,
    starts: Mapping[State, str],
    ends: Mapping[State, str],
) -> str:
    """The table as a Mermaid state diagram. ``starts``, ``ends``: what leads into and out of it."""
    arrows = [f"[*] --> {state.value}: {why}" for state, why in starts.items()]
    arrows += [f"{a.value} --> {b.value}: {step.value}" for (a, step), b in table.items()]
    arrows += [f"{state.value} --> [*]: {why}" for state, why in ends.items()]
    return "\n    ".join(["stateDiagram-v2", *arrows])
