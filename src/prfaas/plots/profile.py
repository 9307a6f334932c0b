"""Profiles as a picture: seconds by tokens, and by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prfaas.models.interpolation import Table
from prfaas.models.profiles import InstanceProfile
from prfaas.plots.figure import check_picture, legend, new_figure, save_figure


def draw_profiles(path: Path, profiles: Sequence[InstanceProfile]) -> None:
    """Draw every table of the profiles, measured points marked.

    Raises ConfigError and CallerError as `check_picture` and `save_figure` do.
    """
    check_picture(path)
    figure, (prefill, decode) = new_figure(size=(10, 4), columns=2)
    for profile in profiles:
        if profile.prefill is not None:
            _line(prefill, profile.prefill.table, f"{profile.name}: prefill")
        if profile.load is not None:
            _line(prefill, profile.load.table, f"{profile.name}: load", "--")
        if profile.decode is not None:
            _line(decode, profile.decode.table, profile.name)
    prefill.set(xlabel="tokens", ylabel="seconds", xscale="log", yscale="log")
    decode.set(xlabel="sequences in the batch", ylabel="seconds per step", ylim=(0, None))
    for axes in (prefill, decode):
        axes.grid(alpha=0.3, which="both")
        if axes.lines:
            legend(axes)
    save_figure(figure, path)


def _line(axes: Any, table: Table, label: str, style: str = "-") -> None:
    axes.plot(table.x, table.y, style, marker="o", label=label)
