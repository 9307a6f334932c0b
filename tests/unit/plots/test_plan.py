"""The picture of a plan."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from prfaas.core.errors import CallerError, ConfigError
from prfaas.planner.pool_hits import HitPoint, Hits
from prfaas.planner.scenario import load_scenario
from prfaas.plots.figure import new_figure, save_figure
from prfaas.plots.plan import draw_hits, draw_plan

pytest.importorskip("matplotlib")
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("found", [0.0, 0.4])
def test_hits_are_drawn_by_tier_also_where_nothing_is_found(found: float, tmp_path: Path) -> None:
    figure, (axes,) = new_figure(size=(5, 4))
    tiers = {"own": 0, "memory": found, "disk": 0, "lan": found / 2, "line": 0}
    hits = Hits(found=1.5 * found, **tiers, fetch_s=0, fetching_share=0)
    sizes = (4 * 2.0**30, 8 * 2.0**30, inf)
    draw_hits(axes, [HitPoint(memory_bytes=size, hits=hits) for size in sizes])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == (
        ["memory", "another machine", "no bound"] if found else ["memory", "no bound"]
    )
    save_figure(figure, tmp_path / "hits.svg")


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
