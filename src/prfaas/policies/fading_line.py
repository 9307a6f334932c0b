"""A straight line through what was seen lately, not led astray by a single outlier.

What is seen fades; one observation many times above what was expected counts as a few times that,
unless it goes on like that: then the engine has become slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

_MEMORY = 0.98
"""What one observation weighs after the next: about the last fifty count."""
_SURE = 5.0
_SURPRISE = 4.0
_CONVINCED = 3
"""From so many observations on, what takes so many times what was expected counts as that, until so
many of them came in a row."""
_KEPT = 10.0
"""What a predecessor has learned counts as so many observations at most."""

Sums = tuple[float, ...]
"""Weight, and weighted sums of x, y, x x and x y."""


class FadingLine:
    """y = a + b x through what was seen, with neither below 0."""

    def __init__(self, sums: Sums = (0.0,) * 5) -> None:
        self.sums = sums
        self._surprises = 0

    def add(self, x: float, y: float) -> None:
        """One more, and what was before fades."""
        weight, sx, sy, sxx, sxy = (_MEMORY * value for value in self.sums)
        self.sums = (weight + 1, sx + x, sy + y, sxx + x * x, sxy + x * y)

    def plausible(self, x: float, y: float) -> float:
        """What of an observation is to be believed."""
        if self.sums[0] < _SURE or y <= (most := _SURPRISE * self.at(x)):
            self._surprises = 0
            return y
        self._surprises += 1
        return y if self._surprises > _CONVINCED else most

    def at(self, x: float) -> float:
        """y there; something must have been seen."""
        weight, sx, sy, sxx, sxy = self.sums
        spread = weight * sxx - sx * sx
        slope = (weight * sxy - sx * sy) / spread if spread > 1e-6 * sx * sx else 0.0
        if slope <= 0:
            return sy / weight
        offset = (sy - slope * sx) / weight
        return offset + slope * x if offset >= 0 else sy / sx * x


def faded(old: float, new: float) -> float:
    """A mean whose past fades as that of a line does."""
    return _MEMORY * old + (1 - _MEMORY) * new


def kept_sums(sums: Iterable[float], *, count: int) -> Sums | None:
    """What a predecessor has learned, at the weight that it has here; None where it is not
    ``count`` numbers that can have been learned."""
    found = tuple(sums)
    if len(found) != count or not all(isfinite(value) and value >= 0 for value in found):
        return None
    if found[0] <= 0:
        return None
    share = min(1.0, _KEPT / found[0])
    return tuple(share * value for value in found)
