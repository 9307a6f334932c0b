"""Results as a picture: TTFT as a distribution and over time, egress over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prfaas.plots.figure import (
    SHADE,
    check_picture,
    legend,
    new_figure,
    plain_numbers,
    save_figure,
)
from prfaas.sim.metrics import Column, RequestTable
from prfaas.sim.sweep import ATTAINMENT, Sweep
from prfaas.sim.world import LineModel, Outage

_BEYOND = 0.03
"""Of the run's length: how far the time axes reach past the last arrival."""


def plot(
    path: Path,
    runs: Sequence[tuple[str, RequestTable, Column]],
    disturbed: Sequence[tuple[float, float]] = (),
) -> None:
    """Draw each (name, requests, bytes sent per second); ``disturbed`` (from, to) is shaded.

    Raises ConfigError and CallerError as `check_picture` and `save_figure` do.
    """
    check_picture(path)
    figure, (spread, over_time, egress) = new_figure(size=(10, 12), rows=3)
    end = max(float(table.arrived_at[-1]) for _, table, _ in runs)
    window = max(30.0, round(end / 120, -1))
    bin_s = max(1, round(end / 300))
    for name, table, sent in runs:
        answered = ~np.isnan(table.ttft_s)
        ttft = table.ttft_s[answered]
        spread.plot(np.sort(ttft), np.linspace(0, 1, ttft.size), label=name)
        at, p99 = rolling_p99(table.arrived_at[answered], ttft, window)
        over_time.plot(at + window / 2, p99, label=name)
        bins = np.arange(sent.size // bin_s)
        gbps = sent[: bins.size * bin_s].reshape(-1, bin_s).mean(1) * 8e-9
        egress.plot((bins + 0.5) * bin_s, gbps, label=name)
    spread.set(xscale="log", xlabel="TTFT, s", ylabel="share of requests", ylim=(0, 1))
    over_time.set(yscale="log", xlabel="arrival, s", ylabel=f"P99 TTFT in {window:.0f} s, s")
    egress.set(xlabel="time, s", ylabel=f"egress, Gbit/s, mean of {bin_s} s", ylim=(0, None))
    for numbers in (spread.xaxis, over_time.yaxis):
        plain_numbers(numbers)
    for axis in (over_time, egress):
        axis.set_xlim(0, end * (1 + _BEYOND))
        for number, (start, stop) in enumerate(disturbed):
            label = "_" if number else "line or engine degraded"
            axis.axvspan(start, min(stop, end), color=SHADE, zorder=0, label=label)
    for axis in (spread, over_time, egress):
        axis.grid(alpha=0.3, which="both")
        legend(axis, beside=True)
    save_figure(figure, path)


def plot_sweep(path: Path, sweeps: Sequence[Sweep], attainment: float = ATTAINMENT) -> None:
    """Draw which share of the requests met the SLO at each rate tried.

    Raises ConfigError and CallerError as `check_picture` and `save_figure` do.
    """
    check_picture(path)
    figure, (axis,) = new_figure(size=(9, 5))
    for sweep in sweeps:
        points = sorted(sweep.points, key=lambda point: point.rate_req_per_s)
        label = f"{sweep.name}: {sweep.best_req_per_s:.2f} req/s"
        shares = [point.slo_share for point in points]
        axis.plot([p.rate_req_per_s for p in points], shares, marker="o", label=label)
    axis.axhline(attainment, color="black", linestyle="--", linewidth=1, label="wanted")
    axis.set(xlabel="arrivals, req/s", ylabel="share of requests that met the SLO", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    legend(axis, beside=True)
    save_figure(figure, path)


def disturbances(
    lines: Sequence[LineModel], outages: Sequence[Outage]
) -> list[tuple[float, float]]:
    """(from, to) in seconds: a line carries less than its rate, or an engine is out."""
    found = [(outage.at, outage.at + outage.for_s) for outage in outages]
    for line in lines:
        since: float | None = None
        for at, rate in line.changes:
            if rate < line.rate_bytes_per_s and since is None:
                since = at
            elif rate >= line.rate_bytes_per_s and since is not None:
                found.append((since, at))
                since = None
        if since is not None:
            found.append((since, float("inf")))
    return found


def rolling_p99(arrived: Column, ttft: Column, window_s: float) -> tuple[Column, Column]:
    """(window start, P99 TTFT) of the requests that arrived in each window that has any."""
    window = (arrived // window_s).astype(int)
    present = np.unique(window)
    p99 = [float(np.percentile(ttft[window == w], 99)) for w in present]
    return present * window_s, np.asarray(p99)
