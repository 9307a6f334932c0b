"""Shows a deployment starting: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from prfaas.launch.child import Child, ChildState

_STYLE = {
    ChildState.WAITING: "dim",
    ChildState.STARTING: "yellow",
    ChildState.READY: "green",
    ChildState.PAUSING: "red",
    ChildState.ENDED: "dim",
}


class StartProgress:
    """``with StartProgress(console) as progress``; pass ``progress.changed`` to the supervisor."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._rows: dict[str, tuple[Child, float]] = {}
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """The table stays as it is; later changes are lines."""
        self._live.stop()

    def changed(self, child: Child) -> None:
        """Show what a process does now. One that was never started has not ended."""
        if child.state is ChildState.ENDED and child.starts == 0:
            return
        elapsed_s = time.monotonic() - self._began
        self._rows[child.name] = (child, elapsed_s)
        if not self._live.is_started:
            restarts = f" (start {child.starts})" if child.starts > 1 else ""
            missing = f": {child.missing}" if child.missing else ""
            self._console.print(
                f"{elapsed_s:5.1f} s  {child.name}: {child.state}{restarts}{missing}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        now_s = time.monotonic() - self._began
        for name, (child, since_s) in self._rows.items():
            busy = child.state in (ChildState.STARTING, ChildState.PAUSING)
            style = _STYLE[child.state]
            table.add_row(
                name,
                f"[{style}]{child.state}[/]",
                f"{now_s if busy else since_s:5.1f} s",
                Text(child.missing, "yellow"),
            )
        return table
