"""How every picture begins, looks and is saved.

Nothing here touches pyplot: a figure belongs to who made it and ends with it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prfaas.core.errors import CallerError, ConfigError

BLUE, GREY = "#1f6feb", "#8b949e"
SHADE = "0.85"
"""Of spans that are pointed out behind the curves."""
SUFFIXES = (".png", ".svg", ".pdf")
_DPI = 150


def check_picture(path: Path) -> None:
    """Return where a picture can be drawn to ``path``; asked before a long run, not after it.

    Raises ConfigError for a suffix that is no picture's, or without matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path}: write a name ending in {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib: pip install 'prfaas[plot]'")


def new_figure(
    *, size: tuple[float, float], rows: int = 1, columns: int = 1, share_x: bool = False
) -> tuple[Any, list[Any]]:
    """A matplotlib figure of ``size`` inches and its axes, row by row.

    Raises ImportError without matplotlib: `check_picture` says so in words.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x)
    return figure, list(axes.ravel())


def legend(axes: Any, *, beside: bool = False) -> None:
    """A legend without a frame; ``beside`` the axes where many curves leave no room inside."""
    if beside:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    else:
        axes.legend(frameon=False)


def plain_numbers(axis: Any) -> None:
    """Label a logarithmic matplotlib axis with 0.2 and 10, not with powers."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Its base chooses which marks have labels, but writes 0.6 as a power."""

        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain(minor_thresholds=(2, 0.5)))
    axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, its folder too where there is none.

    Raises CallerError where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise CallerError(f"--plot {path}: cannot be written: {error.strerror}") from error
