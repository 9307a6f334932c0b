"""Every cell of the paper's tables and figures is within its tolerance."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("figure", "cells"),
    [("table3", 24), ("table5", 12), ("section23", 4), ("table6", 29), ("elastic_bound", 4)],
)
def test_no_cell_is_out(figure: str, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module(f"benchmarks.figures.{figure}.reproduce")
    result = module.reproduce()
    assert len(result.cells) == cells
    assert [cell.name for cell in result.out] == []


def test_a_cell_out_of_tolerance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    cell = importlib.import_module("benchmarks.figures.cells").Cell
    assert cell("x", 1.00, 1.03, 0.02).is_out
    assert not cell("x", 1.00, 1.01, 0.02).is_out
    assert not cell("rounds to the printed 170", 170, 165.8, 0.02, -1).is_out
    assert not cell("only shown", 13, 99, None).is_out
