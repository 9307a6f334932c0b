"""Where reports are printed, and how a verb shows that it is at work."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from prfaas.core.control_characters import escaped_lines

_PIPE_WIDTH = 240


def report_console() -> Console:
    """Standard output. A pipe or a file has no width of its own: nothing is folded there. In a
    narrow terminal tables fold; no figure is cut."""
    return _ReportConsole(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


class _ReportConsole(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        for table in objects:
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "ellipsis" if column.no_wrap else "fold"
        super().print(*objects, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is shown, in pieces, none of which says anything to the terminal: engines quote what
        clients have sent, and agents say what they like."""
        for text, style, control in super().render(renderable, options):
            shown = text if control else escaped_lines(text)
            yield Segment(shown, style, control)

    def on_broken_pipe(self) -> None:
        """The reader (head, less) went away: `prfaas.cli.main` ends as for every other writer; the
        base would exit with 1, which is said of what is reported."""
        raise BrokenPipeError


@contextmanager
def progress_after(silent_s: float, doing: str) -> Iterator[Callable[[str], None]]:
    """A function that is told each step; from ``silent_s`` seconds on the steps are shown.

    On a terminal they are a line that goes away at the end, elsewhere a line each, both on standard
    error. The step that is under way when the silence ends is shown then.
    """
    console = Console(stderr=True)
    shown = _Steps(console, doing)
    timer = threading.Timer(silent_s, shown.begin)
    timer.daemon = True
    timer.start()
    try:
        yield shown.step
    finally:
        timer.cancel()
        shown.end()


class _Steps:
    """Steps of one task; `begin` comes from another thread."""

    def __init__(self, console: Console, doing: str) -> None:
        self._console, self._doing = console, doing
        self._status = console.status(doing) if console.is_terminal else None
        self._lock = threading.Lock()
        self._text = ""
        self._begun = self._over = False

    def begin(self) -> None:
        with self._lock:
            if self._over:
                return
            self._begun = True
            if self._status is not None:
                self._status.start()
            self._show()

    def step(self, text: str) -> None:
        with self._lock:
            self._text = text
            if self._begun:
                self._show()

    def end(self) -> None:
        with self._lock:
            self._over = True
            if self._begun and self._status is not None:
                self._status.stop()

    def _show(self) -> None:
        text = f"{self._doing}: {self._text} ..." if self._text else f"{self._doing} ..."
        if self._status is not None:
            self._status.update(text)
        else:
            self._console.print(text, highlight=False)
