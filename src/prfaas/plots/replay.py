"""Requests of a journal as bars: what each waited for, and what overlapped what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prfaas.plots.figure import BLUE, GREY, check_picture, legend, new_figure, save_figure
from prfaas.scheduler.stories import Stage, spans
from prfaas.scheduler.timelines import Timeline

_COLOURS: dict[Stage, str] = {
    "wait": GREY,
    "prefill": BLUE,
    "transfer": "#d29922",
    "load": "#8957e5",
    "answer": "#2da44e",
}
_ROW_INCHES = 0.32
_THIN, _THICK = 0.22, 0.5


def draw_requests(path: Path, requests: Sequence[Timeline]) -> None:
    """Draw a row per request, each from its own arrival on: they may be hours apart. A transfer is
    a thin bar below the prefill that it overlaps.

    Raises ConfigError and CallerError as `check_picture` and `save_figure` do.
    """
    check_picture(path)
    figure, (axis,) = new_figure(size=(11, 1.6 + _ROW_INCHES * len(requests)))
    named: set[Stage] = set()
    for row, request in enumerate(requests):
        for stage, start, end in spans(request):
            below = stage == "transfer"
            axis.barh(
                row + (_THICK + _THIN) / 2 if below else row,
                end - start,
                left=start,
                height=_THIN if below else _THICK,
                color=_COLOURS[stage],
                label=f"_{stage}" if stage in named else stage,
            )
            named.add(stage)
        if request.outcome != "ok":
            axis.annotate(f" {request.outcome}", (0.0, row), va="center", color="tab:red")
    names = [f"{request.request_id[:16]}  {request.route or '-'}" for request in requests]
    axis.set_yticks(range(len(requests)), labels=names)
    axis.invert_yaxis()
    axis.set(xlabel="seconds since each of them arrived", xlim=(0, None))
    axis.grid(alpha=0.3, axis="x")
    if named:
        legend(axis, beside=True)
    save_figure(figure, path)
