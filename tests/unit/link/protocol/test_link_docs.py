"""The diagrams in the documentation are those of the code."""

from pathlib import Path

from prfaas.link.protocol.lifecycle import INCOMING, OUTGOING, diagram


def test_diagrams_are_current() -> None:
    text = (Path(__file__).parents[4] / "docs" / "link.md").read_text()
    assert diagram(OUTGOING) in text
    assert diagram(INCOMING) in text
