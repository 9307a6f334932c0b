"""A plan as tables and lines."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from rich.console import Console
from rich.table import Table

from prfaas.core.units import format_bytes, format_rate
from prfaas.planner.compare import Plan
from prfaas.planner.deployments import Deployment
from prfaas.planner.pool_hits import HitPoint, Hits
from prfaas.planner.whatif import BreakEven, WhatIf

_NAMED = 4
"""Binding constraints that a table names; JSON has them all."""


def print_plan(
    result: Plan,
    prices: BreakEven | None,
    changes: list[WhatIf],
    console: Console,
    curve: list[HitPoint] | None = None,
) -> None:
    """Print everything that was planned, most important first."""
    ours = next((d for d in result.deployments if d.name == "prfaas_pd"), None)
    _print_deployments(result, console)
    _print_bound(result, ours, console)
    _print_prices(prices, console)
    _print_changes(changes, console)
    _print_curve(curve or [], console)
    for note in result.notes:
        console.print(f"note: {note}", style="yellow", highlight=False)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _nodes(deployment: Deployment) -> str:
    counts = (deployment.n_prfaas, deployment.n_p, deployment.n_d)
    return " / ".join(str(count) if count else "-" for count in counts)


def _thetas(deployment: Deployment) -> str:
    d = deployment
    thetas = (d.theta_prfaas_req_per_s, d.theta_pd_p_req_per_s, d.theta_pd_d_req_per_s)
    return " / ".join(_optional(theta, ".2f") for theta in thetas)


def _ttft(deployment: Deployment, *, queueing: bool) -> str:
    ttft = deployment.ttft_queueing if queueing else deployment.ttft
    return "-" if ttft is None else f"{ttft.mean_s:.2f} / {ttft.p90_s:.2f} s"


def _few(binding: str) -> str:
    names = binding.split(", ")
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(names[:_NAMED] + more)


def _other(deployment: Deployment) -> str:
    other = deployment.other_expectations
    return "-" if other is None else f"{other.lambda_max_req_per_s:.2f} req/s"


def _slo(deployment: Deployment) -> str:
    rate = deployment.rate_within_ttft_slo_req_per_s
    return "-" if rate is None else f"{rate:.2f} req/s" if rate else "not met"


def _per_usd(deployment: Deployment) -> str:
    cost = deployment.cost
    return "-" if cost is None else _optional(cost.requests_per_usd, ".1f")


ROWS: list[tuple[str, Callable[[Deployment], str]]] = [
    ("threshold t, tokens", lambda d: _tokens(d.threshold_tokens)),
    ("N_prfaas / N_p / N_d", _nodes),
    ("Theta prfaas / pd-p / pd-d, req/s", _thetas),
    ("Lambda_max", lambda d: f"{d.lambda_max_req_per_s:.2f} req/s"),
    ("bound by", lambda d: _few(d.binding_constraint)),
    ("offloaded", lambda d: f"{d.offloaded_share:.1%}"),
    ("mean egress", lambda d: format_rate(d.egress_bytes_per_s)),
    ("TTFT mean / P90, no queues", lambda d: _ttft(d, queueing=False)),
    ("TTFT mean / P90, 80% load, estimate", lambda d: _ttft(d, queueing=True)),
    ("rate within the TTFT SLO, estimate", _slo),
    ("GPUs", lambda d: str(d.gpus)),
    ("cost, USD/h", lambda d: f"{d.cost.usd_per_hour:.0f}" if d.cost else "-"),
    ("requests per USD", _per_usd),
]


def _print_deployments(result: Plan, console: Console) -> None:
    table = Table("", *(d.title for d in result.deployments), title=result.name)
    for label, cell in ROWS:
        table.add_row(label, *(cell(d) for d in result.deployments))
    if any(d.hits is not None for d in result.deployments):
        for label, found in _HIT_ROWS:
            cells = ("-" if d.hits is None else found(d.hits) for d in result.deployments)
            table.add_row(label, *cells)
    base = next(d for d in result.deployments if d.name == "homogeneous_pd")
    ratios = (d.lambda_max_req_per_s / base.lambda_max_req_per_s for d in result.deployments)
    table.add_row("ratio to homogeneous PD", *(f"{ratio:.2f}x" for ratio in ratios))
    how = result.deployments[0].expectations
    if any(d.other_expectations is not None for d in result.deployments):
        what = "E[T(L)]" if how == "mean-length" else "T at the mean length"
        table.add_row(f"Lambda_max with {what} instead", *map(_other, result.deployments))
    console.print(table)
    console.print(f"profiles: {', '.join(result.profiles)}; T_prefill: {how}", highlight=False)


def _tiers(hits: Hits) -> str:
    tiers = (hits.own, hits.memory, hits.disk, hits.lan, hits.line)
    return " / ".join(f"{100 * share:.1f}" for share in tiers)


_HIT_ROWS: list[tuple[str, Callable[[Hits], str]]] = [
    ("prompt tokens found in caches", lambda hits: f"{hits.found:.1%}"),
    ("... own / memory / disk / LAN / line, %", _tiers),
    ("fetching: of requests, mean", lambda h: f"{h.fetching_share:.1%}, {h.fetch_s:.2f} s"),
]


def _print_curve(curve: list[HitPoint], console: Console) -> None:
    if not curve:
        return
    table = Table(
        "memory for caches, a machine",
        *(label for label, _ in _HIT_ROWS),
        title="Found, by size, at PrfaaS-PD's threshold and split",
    )
    for point in curve:
        size = "no bound" if point.memory_bytes == inf else format_bytes(point.memory_bytes)
        table.add_row(size, *(cell(point.hits) for _, cell in _HIT_ROWS))
    console.print(table)


def _print_bound(result: Plan, ours: Deployment | None, console: Console) -> None:
    bound = result.fluid_bound
    console.print(
        f"bound, elastic roles: {bound.lambda_max:.2f} req/s (exact expectations; no routing "
        f"exceeds {bound.upper_bound:.4f})",
        highlight=False,
    )
    for flow in bound.flows:
        console.print(
            f"  {flow.share:6.1%} prefill in {flow.prefill}, decode in {flow.decode}: "
            f"{flow.shortest_tokens:,.0f} to {flow.longest_tokens:,.0f} tokens",
            highlight=False,
        )
    if bound.threshold_tokens is not None:
        text = f"offloading what is longer than {bound.threshold_tokens:,.0f} tokens reaches it"
    else:
        text = "no single threshold on the length reaches it"
    if ours is not None:
        console.print(f"  {text}", highlight=False)


def _print_prices(prices: BreakEven | None, console: Console) -> None:
    if prices is None:
        return
    console.print(
        f"break-even against {prices.against}: PrfaaS GPU {prices.prfaas_usd_per_gpu_hour:.2f} "
        f"USD/h, or lines {prices.lines_usd_per_month:,.0f} USD/month, or traffic "
        f"{prices.traffic_usd_per_gb:.4f} USD/GB",
        highlight=False,
    )


def _print_changes(changes: list[WhatIf], console: Console) -> None:
    if not changes:
        return
    table = Table(
        "what if",
        "req/s",
        "change",
        "t, tokens",
        "N_p / N_d",
        "egress",
        "bound by",
        title="What if: Lambda_max",
    )
    for row in changes:
        table.add_row(
            row.change,
            f"{row.lambda_max_req_per_s:.2f}",
            f"{row.relative - 1:+.0%}",
            _tokens(row.threshold_tokens),
            f"{row.n_p} / {row.n_d}",
            format_rate(row.egress_bytes_per_s),
            _few(row.binding_constraint),
        )
    console.print(table)
