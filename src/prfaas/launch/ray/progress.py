"""Shows a deployment coming up on a Ray cluster: a line for each change of a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rich.console import Console

from prfaas.launch.ray.board import Standing


class RayProgress:
    """Says which processes have changed. ``clock``: seconds."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began = clock()
        self._said: dict[str, str] = {}

    def changed(self, standings: Mapping[str, Standing]) -> None:
        """Say what is not as it was said last."""
        for name, standing in standings.items():
            words = _words(standing)
            if words != self._said.get(name):
                self._said[name] = words
                self._console.print(
                    f"{self._clock() - self._began:5.1f} s  {name}: {words}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )


def _words(standing: Standing) -> str:
    node = "" if standing.node is None else f" on node {standing.node[:8]}"
    if standing.ready:
        return f"ready{node}"
    if standing.why:
        return f"restarting (start {standing.ends + 1}): {standing.why.splitlines()[0]}"
    return f"starting{node}" if node else "waiting for a node"
