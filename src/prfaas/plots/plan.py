"""Plots like the paper's Figure 5: Lambda_max over the split (a) and over the threshold (b)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

from prfaas.core.errors import ConfigError
from prfaas.core.units import GIB
from prfaas.planner.compare import two_clusters
from prfaas.planner.demand import Expectations
from prfaas.planner.pool_hits import HitPoint
from prfaas.planner.scenario import Scenario
from prfaas.plots.figure import (
    BLUE,
    GREY,
    check_picture,
    legend,
    new_figure,
    save_figure,
)


def check_plan_picture(scenario: Scenario, path: Path) -> None:
    """Return where a plan of the scenario can be drawn to ``path``; asked before a long search.

    Raises ConfigError for several clusters of a kind, and as `check_picture` does.
    """
    check_picture(path)
    if not scenario.is_two_clusters and scenario.site is None:
        raise ConfigError("--plot draws scenarios of one PrfaaS cluster, one PD cluster, one line")


def draw_plan(scenario: Scenario, path: Path, curve: Sequence[HitPoint] | None = None) -> None:
    """Draw both panels to ``path``, and what is found by size where there is a ``curve``.

    Raises as `check_plan_picture` and `save_figure` do.
    """
    check_plan_picture(scenario, path)
    columns = 2 * scenario.is_two_clusters + bool(curve)
    figure, panels = new_figure(size=(5 * columns + 1.5 * bool(curve), 4), columns=columns)
    if scenario.is_two_clusters:
        draw_split(panels[0], scenario, "mean-length")
        draw_threshold(panels[1], scenario, "mean-length")
    if curve:
        draw_hits(panels[-1], curve)
    labels = ", ".join(sorted({cluster.profile.label for cluster in scenario.clusters}))
    figure.suptitle(f"{scenario.name} (profiles: {labels})", fontsize=10)
    save_figure(figure, path)


_TIERS = (
    ("own", "own cache"),
    ("memory", "memory"),
    ("disk", "disk"),
    ("lan", "another machine"),
    ("line", "the other cluster"),
)
_HUES = ("#0b3d91", BLUE, "#7fb0ff", "#2da44e", "#bf8700")


def draw_hits(axes: Any, curve: Sequence[HitPoint]) -> None:
    """Shares of prompt tokens by tier, one above the other, over each machine's memory for caches;
    dotted: all that there is to find."""
    sized = [point for point in curve if point.memory_bytes < inf]
    sizes = [point.memory_bytes / GIB for point in sized]
    shown = [(tier, label) for tier, label in _TIERS if any(getattr(p.hits, tier) for p in sized)]
    shown = shown or [_TIERS[1]]  # Nothing is found anywhere: a flat line.
    hues = dict(zip((tier for tier, _ in _TIERS), _HUES, strict=True))
    axes.stackplot(
        sizes,
        *([100 * getattr(point.hits, tier) for point in sized] for tier, _ in shown),
        labels=[label for _, label in shown],
        colors=[hues[tier] for tier, _ in shown],
    )
    for point in curve:
        if point.memory_bytes == inf:
            axes.axhline(100 * point.hits.found, ls=":", color=GREY, label="no bound")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
    axes.set_xlim(sizes[0], sizes[-1])
    axes.set_xlabel("memory for caches in each machine, GiB")
    axes.set_ylabel("prompt tokens found, %")
    axes.set_ylim(bottom=0)
    legend(axes, beside=True)


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
