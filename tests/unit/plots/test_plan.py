"""The picture of a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.errors import CallerError, ConfigError
from prfaas.planner.scenario import load_scenario
from prfaas.plots.plan import draw_plan

pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).parents[3] / "examples"


def test_a_plan_is_drawn_in_every_format(tmp_path: Path) -> None:
    scenario = load_scenario(EXAMPLES / "paper.yaml")
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        path = tmp_path / f"plan{suffix}"
        draw_plan(scenario, path)
        assert path.read_bytes().startswith(start)


def test_other_formats_and_several_clusters_are_refused(tmp_path: Path) -> None:
    scenario = load_scenario(EXAMPLES / "paper.yaml")
    with pytest.raises(ConfigError, match=r"ending in .png, .svg, .pdf"):
        draw_plan(scenario, tmp_path / "plan.gif")
    with pytest.raises(ConfigError, match="one PrfaaS cluster, one PD cluster, one line"):
        draw_plan(load_scenario(EXAMPLES / "two-sites.yaml"), tmp_path / "plan.svg")


def test_a_plot_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CallerError, match=r"plan\.svg: cannot be written"):
        draw_plan(load_scenario(EXAMPLES / "paper.yaml"), tmp_path / "file" / "plan.svg")
