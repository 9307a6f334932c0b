"""The tables of ``prfaas bench``."""

from __future__ import annotations

from rich.table import Table

from prfaas.bench.outcomes import Slo, Spread, Summary
from prfaas.cli.console import report_console


def show(summary: Summary, slo: Slo) -> None:
    """Print what was answered, how fast, and what failed."""
    console = report_console()
    s = summary
    console.print(
        f"{s.model}: {s.completed} of {s.requests} answered in {s.duration_s:.1f} s, at most "
        f"{s.most_concurrent} at a time: {s.requests_per_s:.2f} req/s, "
        f"{s.input_tokens_per_s:.0f} tokens/s in, {s.output_tokens_per_s:.0f} tokens/s out",
        highlight=False,
    )
    if slo != Slo():
        console.print(
            f"within the SLO: {s.slo_share:.1%}, {s.goodput_req_per_s:.2f} req/s", highlight=False
        )
    for kind, count in s.errors.items():
        said = f": {s.messages[kind]}" if kind in s.messages else ""
        console.print(f"failed: {count}, {kind}{said}", highlight=False, markup=False)
    console.print(_times(summary))
    if s.routes:
        console.print(_routes(summary))


def _times(summary: Summary) -> Table:
    table = Table("", "mean", "P50", "P90", "P95", "P99", "most")
    rows = {
        "TTFT, s": (summary.ttft_s, 1.0),
        "TPOT, ms": (summary.tpot_s, 1e3),
        "ITL, ms": (summary.itl_s, 1e3),
        "latency, s": (summary.latency_s, 1.0),
        "sent late, ms": (summary.late_s, 1e3),
    }
    for name, (spread, unit) in rows.items():
        table.add_row(name, *_cells(spread, unit))
    return table


def _routes(summary: Summary) -> Table:
    table = Table("route", "answers", "mean prompt", "TTFT mean, s", "P50", "P90", "P99")
    for route, found in summary.routes.items():
        cells = _cells(found.ttft_s, 1.0)
        shown = (cells[0], cells[1], cells[2], cells[4])
        table.add_row(route, str(found.completed), f"{found.mean_prompt_tokens:.0f}", *shown)
    return table


def _cells(spread: Spread | None, unit: float) -> list[str]:
    if spread is None:
        return ["-"] * 6
    values = (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.most)
    return [f"{value * unit:.3f}" for value in values]
