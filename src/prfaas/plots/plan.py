"""Plots like the paper's Figure 5: Lambda_max over the split (a) and over the threshold (b)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prfaas.core.errors import ConfigError
from prfaas.planner.compare import two_clusters
from prfaas.planner.demand import Expectations
from prfaas.planner.scenario import Scenario
from prfaas.plots.figure import BLUE, GREY, check_picture, legend, new_figure, save_figure


def check_plan_picture(scenario: Scenario, path: Path) -> None:
    """Return where a plan of the scenario can be drawn to ``path``; asked before a long search.

    Raises ConfigError for several clusters of a kind, and as `check_picture` does.
    """
    check_picture(path)
    if not scenario.is_two_clusters:
        raise ConfigError("--plot draws scenarios of one PrfaaS cluster, one PD cluster, one line")


def draw_plan(scenario: Scenario, path: Path) -> None:
    """Draw both panels to ``path``. Raises as `check_plan_picture` and `save_figure` do."""
    check_plan_picture(scenario, path)
    figure, (left, right) = new_figure(size=(10, 4), columns=2)
    draw_split(left, scenario, "mean-length")
    draw_threshold(right, scenario, "mean-length")
    labels = ", ".join(sorted({cluster.profile.label for cluster in scenario.clusters}))
    figure.suptitle(f"{scenario.name} (profiles: {labels})", fontsize=10)
    save_figure(figure, path)


def draw_split(axes: Any, scenario: Scenario, how: Expectations) -> None:
    """Figure 5a: Lambda_max over N_p at the best threshold of the best split."""
    model = two_clusters(scenario)
    n_prfaas, nodes = scenario.prfaas[0].instances, scenario.pd[0].instances
    best = model.best(n_prfaas, nodes, how)
    splits = range(1, nodes)
    at = best.threshold_tokens or 0.0
    fixed = [model.at(at, n_prfaas, n, nodes - n, how).lambda_max for n in splits]
    free = [model.best_threshold(n_prfaas, n, nodes - n, how).lambda_max for n in splits]
    axes.plot(splits, free, "o--", color=GREY, label="best t for each split")
    axes.plot(splits, fixed, "o-", color=BLUE, label=f"t = {at:,.0f} tokens")
    axes.set_xlabel(f"N_p of {nodes} PD instances")
    axes.set_ylabel("Lambda_max, req/s")
    axes.set_ylim(bottom=0)
    legend(axes)


def draw_threshold(axes: Any, scenario: Scenario, how: Expectations) -> None:
    """Figure 5b: Lambda_max over t at the best split, and with exact expectations."""
    model = two_clusters(scenario)
    n_prfaas, nodes = scenario.prfaas[0].instances, scenario.pd[0].instances
    best = model.best(n_prfaas, nodes, how)
    shown = model.thresholds <= 60_000
    other: Expectations = "exact" if how == "mean-length" else "mean-length"
    for kind, style, color in ((how, "-", BLUE), (other, "--", GREY)):
        values = model.lambdas(n_prfaas, best.n_p, best.n_d, kind)
        axes.plot(model.thresholds[shown] / 1000, values[shown], style, color=color, label=kind)
    if best.threshold_tokens is not None:
        axes.plot([best.threshold_tokens / 1000], [best.lambda_max], "o", color=BLUE)
    axes.set_xlabel(f"threshold t, 1000 tokens (N_p / N_d = {best.n_p} / {best.n_d})")
    axes.set_ylabel("Lambda_max, req/s")
    axes.set_ylim(bottom=0)
    legend(axes)
