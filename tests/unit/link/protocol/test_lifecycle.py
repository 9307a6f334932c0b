"""The tables refuse what is not in them, and the documentation draws what is."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import InvariantError
from prfaas.core.transitions import advance, diagram
from prfaas.link.protocol.lifecycle import (
    RECEIVING_TRANSITIONS,
    SENDING_TRANSITIONS,
    SendingState,
    SendingStep,
)


def test_diagrams_are_current() -> None:
    text = (Path(__file__).parents[4] / "docs" / "link.md").read_text()
    sending = diagram(SENDING_TRANSITIONS, starts={}, ends={})
    receiving = diagram(RECEIVING_TRANSITIONS, starts={}, ends={})
    for table, drawing in ((SENDING_TRANSITIONS, sending), (RECEIVING_TRANSITIONS, receiving)):
        assert drawing in text
        assert drawing.count("-->") == len(table)


def test_lifecycles_refuse_what_is_not_in_the_table() -> None:
    with pytest.raises(InvariantError, match="complete"):
        advance(SENDING_TRANSITIONS, SendingState.COMPLETE, SendingStep.ACCEPTED)
