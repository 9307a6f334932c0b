"""The tables refuse what is not in them, and the documentation draws what is."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import InvariantError
from prfaas.link.protocol import lifecycle
from prfaas.link.protocol.lifecycle import (
    RECEIVING_TRANSITIONS,
    SENDING_TRANSITIONS,
    SendingState,
    SendingStep,
    diagram,
)


def test_diagrams_are_current() -> None:
    text = (Path(__file__).parents[4] / "docs" / "link.md").read_text()
    assert diagram(SENDING_TRANSITIONS) in text
    assert diagram(RECEIVING_TRANSITIONS) in text


def test_lifecycles_refuse_what_is_not_in_the_table() -> None:
    with pytest.raises(InvariantError, match="complete"):
        lifecycle.advance(SENDING_TRANSITIONS, SendingState.COMPLETE, SendingStep.ACCEPTED)
    for table in (SENDING_TRANSITIONS, RECEIVING_TRANSITIONS):
        drawing = lifecycle.diagram(table)
        assert drawing.startswith("stateDiagram-v2")
        assert drawing.count("-->") == len(table)
