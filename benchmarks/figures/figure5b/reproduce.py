"""Figure 5b: Lambda_max over the threshold at the best split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from benchmarks.figures.cells import Cell, Reproduction
from benchmarks.figures.table6.reproduce import SCENARIO

from prfaas.planner.compare import two_clusters
from prfaas.planner.scenario import load_scenario
from prfaas.plots.figure import new_figure, save_figure
from prfaas.plots.plan import draw_threshold


def reproduce() -> Reproduction:
    scenario = load_scenario(SCENARIO)
    model = two_clusters(scenario)
    values = model.lambdas(4, 3, 5, "mean-length")
    peak = int(np.argmax(values))

    def draw(path: Path) -> None:
        figure, (axes,) = new_figure(size=(5, 4))
        draw_threshold(axes, scenario, "mean-length")
        axes.set_title("Figure 5b (H20 profile: fit)", fontsize=10)
        save_figure(figure, path)

    at = {t: model.at(t * 1000.0, 4, 3, 5, "mean-length") for t in (0.1, 5, 10, 15, 20, 30, 40, 60)}
    rows = ", ".join(f"{t}K: {split.lambda_max:.2f} ({split.binding})" for t, split in at.items())
    return Reproduction(
        "figure5b",
        "Figure 5b: Lambda_max over t, N_p / N_d = 3 / 5",
        "The paper's curve is not published as numbers; its peak is.",
        [
            Cell("t at the peak, tokens", 19_400, float(model.thresholds[peak]), 0.05, -2),
            Cell("Lambda_max at the peak, req/s", 3.24, float(values[peak]), 0.02),
        ],
        draw,
        remarks=[f"{rows}. The H20 profile is a fit."],
    )
