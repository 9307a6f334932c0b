"""Lifecycles as tables."""

from __future__ import annotations

from enum import Enum

import pytest

from prfaas.core.errors import InvariantError
from prfaas.core.transitions import advance, diagram


class Door(Enum):
    OPEN = "open"
    SHUT = "shut"


class Hand(Enum):
    PUSHED = "pushed"


TABLE = {(Door.OPEN, Hand.PUSHED): Door.SHUT}


def test_a_step_that_is_not_in_the_table_is_a_bug() -> None:
    assert advance(TABLE, Door.OPEN, Hand.PUSHED) is Door.SHUT
    with pytest.raises(InvariantError, match="Door shut got 'pushed'"):
        advance(TABLE, Door.SHUT, Hand.PUSHED)


def test_diagram() -> None:
    assert diagram(TABLE, starts={Door.OPEN: "built"}, ends={Door.SHUT: "torn down"}) == (
        "stateDiagram-v2\n"
        "    [*] --> open: built\n"
        "    open --> shut: pushed\n"
        "    shut --> [*]: torn down"
    )
