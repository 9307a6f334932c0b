"""Figure 5a: Lambda_max over N_p at the best threshold."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures.cells import Cell, Reproduction
from benchmarks.figures.table6.reproduce import SCENARIO

from prfaas.planner.compare import two_clusters
from prfaas.planner.scenario import load_scenario
from prfaas.plots.figure import new_figure, save_figure
from prfaas.plots.plan import draw_split

THRESHOLD_TOKENS = 19_400


def reproduce() -> Reproduction:
    scenario = load_scenario(SCENARIO)
    model = two_clusters(scenario)
    values = {n: model.at(THRESHOLD_TOKENS, 4, n, 8 - n, "mean-length") for n in range(1, 8)}
    peak = max(values, key=lambda n: values[n].lambda_max)

    def draw(path: Path) -> None:
        figure, (axes,) = new_figure(size=(5, 4))
        draw_split(axes, scenario, "mean-length")
        axes.set_title("Figure 5a (H20 profile: fit)", fontsize=10)
        save_figure(figure, path)

    rows = ", ".join(f"N_p = {n}: {s.lambda_max:.2f} ({s.binding})" for n, s in values.items())
    return Reproduction(
        "figure5a",
        f"Figure 5a: Lambda_max over N_p, t = {THRESHOLD_TOKENS:,}",
        "The paper's curve is not published as numbers; its peak is.",
        [
            Cell("N_p at the peak", 3, peak, 0.0, 0),
            Cell("Lambda_max at the peak, req/s", 3.24, values[peak].lambda_max, 0.02),
        ],
        draw,
        remarks=[f"{rows}. The H20 profile is a fit."],
    )
