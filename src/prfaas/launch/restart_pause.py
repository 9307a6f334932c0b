"""How long to wait before a process that has ended is started again."""

from __future__ import annotations

import math

_FIRST_S, _LONGEST_S = 1.0, 30.0
STEADY_S = 60.0
"""What has been well for so long has recovered: its next failure counts as a first one."""


def pause_after(ends: int) -> float:
    """Seconds until the next start of what has ended so often since it was last well."""
    doublings = min(max(ends - 1, 0), 32)  # Two to the power of 1,024 is no float.
    return min(math.ldexp(_FIRST_S, doublings), _LONGEST_S)


class RestartPause:
    """The pauses of one process: doubling, since what fails at once must not keep a core busy."""

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def after(self, well_s: float) -> float:
        """Seconds until the next start. ``well_s``: how long the process did what it is for."""
        pause_s = _FIRST_S if well_s >= STEADY_S else self._next_s
        self._next_s = min(2 * pause_s, _LONGEST_S)
        return pause_s
