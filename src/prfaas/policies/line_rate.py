"""What a line can carry, believed with care.

A drop is believed at once: everything that is decided from then on sees it. A rise is believed
little by little, since a line on which nothing is sent any more says nothing of what it could
carry: what is sent first shows whether the rest may follow.
"""

from __future__ import annotations

from math import inf

_DOUBLES_IN_S = 2.0
"""How fast a rise is believed: from a tenth to the whole in 7 s, some transfers' time."""
LEAST_BYTES_PER_S = 1024.0
"""A line that stands still is not believed to be slower, or it would never be tried again: with a
hundred MB/s it is after half a minute."""
_LONG = 60.0
"""So many doublings are any rise."""


class LineRate:
    """The rate of one line that is believed, in bytes per second; times in seconds."""

    __slots__ = ("_at", "_low", "_told")

    def __init__(self, told: float) -> None:
        self._told = self._low = told
        self._at = -inf

    def take(self, told: float, now: float) -> None:
        """The line is said to carry so much."""
        self._low, self._at, self._told = min(self.at(now), told), now, told

    def stands(self, now: float) -> None:
        """Nothing has come over it for long, whatever it is said to carry."""
        self._low, self._at = min(self.at(now), LEAST_BYTES_PER_S), now

    @property
    def told(self) -> float:
        """What was said last, before any care."""
        return self._told

    def at(self, now: float) -> float:
        """What is believed at ``now``."""
        if self._low >= self._told:
            return self._told
        doublings = (now - self._at) / _DOUBLES_IN_S
        return self._told if doublings > _LONG else min(self._told, self._low * 2.0**doublings)
