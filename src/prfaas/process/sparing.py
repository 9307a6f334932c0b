"""What takes a process long to say is made anew only so often, however often it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Generic, TypeVar

T = TypeVar("T")

_SHARE = 0.05
"""Of this process's time, for one thing that anybody may ask for."""


class Sparing(Generic[T]):
    """What ``make`` makes, or has made a moment ago: what takes 50 ms is made once a second.

    ``clock``: seconds.
    """

    def __init__(self, make: Callable[[], T], clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock = make, clock
        self._good_until = -inf
        self._made: T

    def __call__(self) -> T:
        """As it was made last, or is made now."""
        return self.anew() if self._clock() >= self._good_until else self._made

    def anew(self) -> T:
        """As it is made now."""
        began = self._clock()
        self._made = self._make()
        self._good_until = began + (self._clock() - began) / _SHARE
        return self._made
