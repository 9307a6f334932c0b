"""The time of the event that is being handled, as every part of the scheduler reads it."""

from __future__ import annotations

from math import inf


class Clock:
    """The time of the event at hand. ``now``: in seconds, on the driver's clock."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = -inf
