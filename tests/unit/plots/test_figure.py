"""What every picture shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import ConfigError
from prfaas.plots import figure
from prfaas.plots.figure import check_picture, new_figure, plain_numbers, save_figure


def test_a_missing_matplotlib_and_a_foreign_suffix_are_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"--plot out.txt: write a name ending in \.png"):
        check_picture(Path("out.txt"))
    monkeypatch.setattr(figure, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'prfaas\[plot\]'"):
        check_picture(Path("out.png"))


def test_axes_come_row_by_row_and_logarithms_are_plain_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn, axes = new_figure(size=(4, 3), rows=2, columns=2)
    assert len(axes) == 4
    axes[0].plot([1, 100], [1, 2])
    axes[1].plot([0.3, 0.9], [1, 2])
    for axis in axes[:2]:
        axis.set_xscale("log")
        plain_numbers(axis.xaxis)
    save_figure(drawn, tmp_path / "new" / "a.svg")
    assert "10" in [label.get_text() for label in axes[0].get_xticklabels()]
    small = {label.get_text() for label in axes[1].get_xticklabels(minor=True)} - {""}
    assert {"0.4", "0.6"} <= small
    assert not any("e" in label for label in small)
