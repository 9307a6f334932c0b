"""Goodput over what could be reached, one panel a workload and line, one curve a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.policies.cells import Result

from prfaas.plots.figure import new_figure, save_figure

COLUMNS = 3


def draw(picture: Path, results: Sequence[Result]) -> None:
    """Write the plot to ``picture``."""
    panels = list(dict.fromkeys((r.trace, r.caches, r.line) for r in results))
    rows = -(-len(panels) // COLUMNS)
    figure, axes = new_figure(size=(5 * COLUMNS, 3.2 * rows), rows=rows, columns=COLUMNS)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        shown = [r for r in results if (r.trace, r.caches, r.line) == panel]
        for policy in dict.fromkeys(r.policy for r in shown):
            points = [(r.load, share(r)) for r in shown if r.policy == policy]
            width = 2.5 if policy == "auto" else 1.0
            axis.plot(*zip(*points, strict=True), "o-", label=policy, linewidth=width, ms=3)
        trace, caches, line = panel
        title = f"{trace}{', prefix caches' if caches else ''}\nline {line}"
        axis.set_title(title, fontsize="small")
        axis.set_xlabel("offered, of the fluid bound")
        axis.set_ylim(0, 1.1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("goodput, of what could be reached")
    axes[0].legend(fontsize="x-small", frameon=False)
    save_figure(figure, picture)


def share(result: Result) -> float:
    """Goodput over what could be reached."""
    return result.goodput_req_per_s / result.reachable_req_per_s
