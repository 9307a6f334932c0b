"""Results as tables for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from prfaas.core.units import format_rate
from prfaas.sim.summary import Summary

_ENDS = ("refused", "lost")


def results_tables(summaries: Sequence[Summary]) -> Iterator[Table]:
    """What users get, then what it took; one row per run in each."""
    yield _served(summaries)
    yield _used(summaries)


def _served(summaries: Sequence[Summary]) -> Table:
    table = _table("Served", "req/s", "at SLO", "TTFT mean", "P50", "P90", "P99", "TPOT", *_ENDS)
    for s in summaries:
        ttft = (s.ttft_s.mean, s.ttft_s.p50, s.ttft_s.p90, s.ttft_s.p99)
        table.add_row(
            _name(s),
            f"{s.throughput_req_per_s:.2f}",
            f"{s.goodput_req_per_s:.2f}",
            *(f"{seconds:.2f} s" for seconds in ttft),
            f"{s.tpot_s.mean * 1e3:.1f} ms",
            str(s.refused),
            str(s.lost),
        )
    return table


def _used(summaries: Sequence[Summary]) -> Table:
    stages = list(dict.fromkeys(stage for s in summaries for stage in s.utilisation))
    table = _table(
        "Used", "offload", "direct", "egress mean", "peak", "cached", *(f"{s} busy" for s in stages)
    )
    for s in summaries:
        busy = (s.utilisation.get(stage) for stage in stages)
        table.add_row(
            _name(s),
            f"{s.offloaded_share:.1%}",
            f"{s.direct_share:.1%}",
            format_rate(s.egress_mean_bytes_per_s),
            format_rate(s.egress_peak_bytes_per_s),
            f"{s.cached_tokens_share:.1%}",
            *("-" if share is None else f"{share:.0%}" for share in busy),
        )
    return table


def _table(title: str, *figures: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("run", no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right")
    return table


def _name(summary: Summary) -> str:
    return summary.name if summary.name == summary.policy else f"{summary.name} ({summary.policy})"
