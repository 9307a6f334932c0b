"""The demo's table: what happened to each request, and whether the plain engine agrees."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from prfaas.core.units import format_bytes, format_duration
from prfaas.demo.client import Answer


def table(answers: Mapping[str, Answer], plain: Mapping[str, Answer]) -> Table:
    """A row per request. ``plain`` holds the answers of an engine that never disaggregated."""
    drawn = Table(header_style="bold", row_styles=("", "dim"))
    for heading in ("request", "route", "why"):
        drawn.add_column(heading, overflow="fold")
    for heading in ("tokens", "uncached", "KV sent", "hidden", "TTFT", "tokens/s", "identical"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for name, answer in answers.items():
        same = identical(answer, plain[name])
        drawn.add_row(
            name,
            answer.route,
            answer.reason,
            "-" if answer.total_tokens is None else f"{answer.total_tokens:,}",
            "-" if answer.uncached_tokens is None else f"{answer.uncached_tokens:,}",
            "-" if answer.kv_bytes is None else format_bytes(answer.kv_bytes),
            "-" if answer.kv_hidden is None else f"{answer.kv_hidden:.0%}",
            format_duration(answer.ttft_s),
            "-" if answer.tokens_per_s is None else f"{answer.tokens_per_s:.0f}",
            "[green]yes[/]" if same else "[bold red]NO[/]",
        )
    return drawn


def bought(answers: Mapping[str, Answer]) -> str:
    """One line: what offloading took off the cluster that answers, and what it cost the line."""
    offloaded = [a for a in answers.values() if a.route == "offload"]
    elsewhere = sum(a.uncached_tokens or 0 for a in offloaded)
    everything = sum(a.uncached_tokens or 0 for a in answers.values())
    sent_bytes = sum(a.kv_bytes or 0 for a in offloaded)
    early_bytes = sum((a.kv_bytes or 0) * (a.kv_hidden or 0.0) for a in offloaded)
    return (
        f"What offloading bought: {elsewhere:,} of {everything:,} uncached prompt tokens "
        f"({_share(elsewhere, everything)}) were prefilled in the other cluster, for "
        f"{format_bytes(sent_bytes)} of KV cache over the line, {_share(early_bytes, sent_bytes)} "
        "of it sent while prefill still ran."
    )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "none"


def identical(answer: Answer, plain: Answer) -> bool:
    return answer.token_ids == plain.token_ids and answer.text == plain.text


def differences(answers: Mapping[str, Answer], plain: Mapping[str, Answer]) -> list[str]:
    """Both texts of every request whose answers differ."""
    return [
        f"{name}:\n  disaggregated: {answer.text!r}\n  plain engine:  {plain[name].text!r}"
        for name, answer in answers.items()
        if not identical(answer, plain[name])
    ]
