"""Results for a reader: a table, a plot, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from prfaas.core.errors import ConfigError
from prfaas.core.units import format_rate
from prfaas.sim.metrics import Column, RequestTable
from prfaas.sim.summary import Summary


def results_table(summaries: Sequence[Summary]) -> Table:
    """Policies down, measures across."""
    table = Table(title=None, header_style="bold")
    table.add_column("run")
    table.add_column("policy")
    for name in (
        "req/s", "at SLO", "TTFT mean", "P50", "P90", "P99", "TPOT ms", "offload", "direct",
        "egress mean / peak", "stages busy", "cached", "lost",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for s in summaries:
        table.add_row(
            s.name,
            s.policy,
            f"{s.throughput_req_per_s:.2f}",
            f"{s.goodput_req_per_s:.2f}",
            *(f"{v:.2f}" for v in (s.ttft_s.mean, s.ttft_s.p50, s.ttft_s.p90, s.ttft_s.p99)),
            f"{s.tpot_s.mean * 1e3:.1f}",
            f"{s.offloaded_share:.1%}",
            f"{s.direct_share:.1%}",
            f"{format_rate(s.egress_mean_bytes_per_s)} / {format_rate(s.egress_peak_bytes_per_s)}",
            ", ".join(f"{stage} {busy:.0%}" for stage, busy in s.utilisation.items()),
            f"{s.cached_tokens_share:.1%}",
            str(s.lost),
        )
    return table


def plot(path: Path, runs: Sequence[tuple[str, RequestTable, Column]]) -> None:
    """TTFT as a distribution and over time, and egress over time, of each (name, requests, bytes
    per second). Raises ConfigError where matplotlib is missing or the suffix is no image's."""
    if path.suffix not in {".png", ".svg", ".pdf"}:
        raise ConfigError(f"--plot {path}: write a name ending in .png, .svg or .pdf")
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'prfaas[plot]'") from error
    figure, (spread, over_time, egress) = pyplot.subplots(3, 1, figsize=(9, 11))
    for name, table, sent in runs:
        answered = ~np.isnan(table.ttft_s)
        ttft = table.ttft_s[answered]
        spread.plot(np.sort(ttft), np.linspace(0, 1, ttft.size), label=name)
        at, p99 = rolling_p99(table.arrived_at[answered], ttft)
        over_time.plot(at, p99, label=name)
        minutes = np.arange(sent.size // 10) * 10
        egress.plot(minutes, sent[: minutes.size * 10].reshape(-1, 10).mean(1) * 8e-9, label=name)
    spread.set(xscale="log", xlabel="TTFT, s", ylabel="share of requests", ylim=(0, 1))
    over_time.set(yscale="log", xlabel="arrival, s", ylabel="P99 TTFT per 30 s, s")
    egress.set(xlabel="time, s", ylabel="egress, Gbit/s")
    for axis in (spread, over_time, egress):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def rolling_p99(arrived: Column, ttft: Column, window_s: float = 30.0) -> tuple[Column, Column]:
    """(window start, P99 TTFT) of the requests that arrived in each window that has any."""
    window = (arrived // window_s).astype(int)
    present = np.unique(window)
    p99 = [float(np.percentile(ttft[window == w], 99)) for w in present]
    return present * window_s, np.asarray(p99)
