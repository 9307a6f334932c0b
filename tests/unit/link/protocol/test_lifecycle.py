"""The diagrams in the documentation are those of the code."""

from pathlib import Path

from prfaas.link.protocol.lifecycle import RECEIVING_TRANSITIONS, SENDING_TRANSITIONS, diagram


def test_diagrams_are_current() -> None:
    text = (Path(__file__).parents[4] / "docs" / "link.md").read_text()
    assert diagram(SENDING_TRANSITIONS) in text
    assert diagram(RECEIVING_TRANSITIONS) in text
