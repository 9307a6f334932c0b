"""The diagrams in the documentation are those of the code."""

from pathlib import Path

from prfaas.pool.lifecycle import EXPORT, RECEPTION, export_diagram, reception_diagram


def test_diagrams_are_current() -> None:
    text = (Path(__file__).parents[3] / "docs" / "agent.md").read_text()
    assert export_diagram() in text
    assert reception_diagram() in text


def test_an_end_is_an_end() -> None:
    assert not {"complete", "failed"} & {state.value for state, _ in EXPORT}
    assert "failed" not in {state.value for state, _ in RECEPTION}
