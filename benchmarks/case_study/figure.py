"""Figure 5: Lambda over N_p at the paper's threshold, and over the threshold at its split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.case_study.cases import FILE, THRESHOLD_TOKENS, description
from benchmarks.case_study.load import sustained

from prfaas.core.deployment import SchedulerConfig
from prfaas.description.experiments import RunConfig, Split
from prfaas.planner.compare import two_clusters
from prfaas.planner.scenario import load_scenario
from prfaas.plots.figure import new_figure, save_figure
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate

_REQUESTS = 6000
_OVERLOAD = 1.05


def simulated(threshold: int, n_p: int, planned: float) -> float:
    """What the simulator answers per second, offered more than it can carry."""
    described = description(planned * _OVERLOAD, _REQUESTS)
    workload = build_workload(described, beside=FILE.parent)
    run = RunConfig(
        name="r",
        scheduler=SchedulerConfig(policy="threshold", threshold=threshold),
        instances={"west": Split(prefill=n_p, decode=8 - n_p)},
    )
    begin, end = workload.arrivals[_REQUESTS // 10], workload.arrivals[-1]
    found = simulate(described, run, workload, beside=FILE.parent, until=end)
    done = found.recorder.table().done_at
    return sustained(workload.prompts, done, begin, end, threshold)


def draw(path: Path, rows: list[Any]) -> None:
    """``rows``: what was measured; the running system's point is at the paper's operating point."""
    model = two_clusters(load_scenario(FILE))
    figure, (left, right) = new_figure(size=(10, 4), columns=2)
    splits = np.arange(1, 8)
    cuts = np.linspace(2_000, 60_000, 30)
    for how in ("mean-length", "exact"):
        at = [model.at(THRESHOLD_TOKENS, 4, int(n), 8 - int(n), how).lambda_max for n in splits]
        left.plot(splits, at, label=f"planner, {how}")
        over = [model.at(float(t), 4, 3, 5, how).lambda_max for t in cuts]
        right.plot(cuts / 1000, over, label=f"planner, {how}")
    points = [simulated(THRESHOLD_TOKENS, int(n), at[i]) for i, n in enumerate(splits)]
    left.plot(splits, points, "x", label="simulator")
    some = cuts[::4]
    points = [simulated(int(t), 3, model.at(float(t), 4, 3, 5, "exact").lambda_max) for t in some]
    right.plot(some / 1000, points, "x", label="simulator")
    live = next(row.live for row in rows if row.name == "threshold")
    left.plot([3], [live], "o", label="running system")
    right.plot([THRESHOLD_TOKENS / 1000], [live], "o", label="running system")
    left.set_xlabel("N_p (of 8)")
    right.set_xlabel("threshold, 1,000 tokens")
    left.set_ylabel("Lambda, requests/s")
    for axes in (left, right):
        axes.legend(fontsize=8)
    left.set_title("Figure 5a", fontsize=10)
    right.set_title("Figure 5b", fontsize=10)
    save_figure(figure, path)
