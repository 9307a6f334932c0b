"""A run of `prfaas bench` as a picture: what clients waited for, and when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prfaas.bench.outcomes import Outcome, Slo, concurrency
from prfaas.plots.figure import check_picture, legend, new_figure, plain_numbers, save_figure


def draw_bench(path: Path, outcomes: Sequence[Outcome], slo: Slo) -> None:
    """Draw TTFT by prompt length and as a distribution, TPOT likewise, and the load over time.

    Raises ConfigError and CallerError as `check_picture` and `save_figure` do.
    """
    check_picture(path)
    figure, axes = new_figure(size=(11, 8), rows=2, columns=2)
    by_length, ttft, tpot, load = axes
    done = [outcome for outcome in outcomes if outcome.completed]
    for route in sorted({outcome.route or "answers" for outcome in done}):
        some = [outcome for outcome in done if (outcome.route or "answers") == route]
        by_length.plot(
            [o.prompt_tokens for o in some], [o.ttft_s for o in some], ".", label=route, alpha=0.6
        )
        _distribution(ttft, [o.ttft_s for o in some], route)
        _distribution(tpot, [s * 1e3 for o in some if (s := o.tpot_s) is not None], route)
    changes, _ = concurrency(outcomes)
    load.step([at for at, _ in changes], [count for _, count in changes], where="post")
    for outcome in outcomes:
        if not outcome.completed and outcome.ended is not None:
            load.axvline(outcome.ended, color="tab:red", alpha=0.3, linewidth=1)
    _bound(ttft, slo.ttft_s)
    _bound(tpot, None if slo.tpot_s is None else slo.tpot_s * 1e3)
    by_length.set(xscale="log", yscale="log", xlabel="prompt, tokens", ylabel="TTFT, s")
    ttft.set(xscale="log", xlabel="TTFT, s", ylabel="share of answers", ylim=(0, 1))
    tpot.set(xlabel="TPOT, ms", ylabel="share of answers", ylim=(0, 1))
    load.set(xlabel="time, s", ylabel="requests under way (red: one failed)", ylim=(0, None))
    load.yaxis.get_major_locator().set_params(integer=True)
    if done:
        for axis in (by_length.xaxis, by_length.yaxis, ttft.xaxis):
            plain_numbers(axis)
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
        if axis is not load and axis.lines:
            legend(axis)
    save_figure(figure, path)


def _distribution(axis: Any, values: Sequence[float], label: str) -> None:
    if values:
        axis.plot(np.sort(values), np.linspace(0, 1, len(values)), label=label)


def _bound(axis: Any, at: float | None) -> None:
    if at is not None:
        axis.axvline(at, color="black", linestyle="--", linewidth=1, label="SLO")
