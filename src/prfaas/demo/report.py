"""The demo's table: what happened to each request, and whether the plain engine agrees."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from prfaas.core.units import format_bytes, format_duration
from prfaas.demo.client import Answer

NEAR_TIE_NATS = 0.25
"""Where an engine's best token leads by less, what else is in a batch may decide: on an H200 a
plain engine's texts were seen to part at up to 0.19."""


def table(
    answers: Mapping[str, Answer], plain: Mapping[str, Answer], leads: Mapping[str, float]
) -> Table:
    """A row per request. ``plain`` holds the answers of an engine that never disaggregated,
    ``leads`` its best token's lead in nats where texts part."""
    drawn = Table(header_style="bold", row_styles=("", "dim"))
    for heading in ("request", "route", "why"):
        drawn.add_column(heading, overflow="fold")
    for heading in ("tokens", "uncached", "KV sent", "hidden", "TTFT", "tokens/s", "identical"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for name, answer in answers.items():
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
            _verdict(answer, plain[name], leads.get(name)),
        )
    return drawn


def _verdict(answer: Answer, plain: Answer, lead: float | None) -> str:
    if identical(answer, plain):
        return "[green]yes[/]"
    return "near tie" if nearly_tied(lead) else "[bold red]NO[/]"


def nearly_tied(lead: float | None) -> bool:
    """Whether an engine's own answer may part there. ``lead``: see `table`."""
    return lead is not None and lead < NEAR_TIE_NATS


def parts_at(answer: Answer, plain: Answer) -> int | None:
    """The first place where both have a token, and not the same."""
    pairs = zip(answer.token_ids, plain.token_ids, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), None)


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
    """Token by token, and as text."""
    return answer.token_ids == plain.token_ids and answer.text == plain.text


def differences(
    answers: Mapping[str, Answer], plain: Mapping[str, Answer], leads: Mapping[str, float]
) -> list[str]:
    """Both texts of every request whose answers differ."""
    return [
        f"{name}{_told(leads.get(name))}:\n  disaggregated: {answer.text!r}\n"
        f"  plain engine:  {plain[name].text!r}"
        for name, answer in answers.items()
        if not identical(answer, plain[name])
    ]


def _told(lead: float | None) -> str:
    if lead is None:
        return ""
    return f" (the plain engine's best word leads by {lead:.2f} nats where they part)"
