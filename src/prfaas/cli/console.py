"""Where reports are printed."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPE_WIDTH = 240


def report_console() -> Console:
    """Standard output. A pipe or a file has no width of its own: nothing is folded there."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
