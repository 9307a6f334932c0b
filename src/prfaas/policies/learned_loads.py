"""How long a decode engine takes to its first token once a hand-off is there, as was seen.

The KV cache is read into the engine's memory, its tail is computed, and a step ends: a line over
the bytes of the hand-off. An engine that was never seen counts as all that were. What is seen
fades; one load that took many times longer than expected counts as a few times, unless it goes on
like that.
"""

from __future__ import annotations

from collections.abc import Mapping
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
_ALL = ""
"""Stands for every engine."""

Sums = tuple[float, ...]
"""Weight, and weighted sums of x, y, x x and x y."""


class _Line:
    """y = a + b x through what was seen, with neither below 0."""

    def __init__(self, sums: Sums = (0.0,) * 5) -> None:
        self.sums = sums
        self._surprises = 0

    def add(self, x: float, y: float) -> None:
        weight, sx, sy, sxx, sxy = (_MEMORY * value for value in self.sums)
        self.sums = (weight + 1, sx + x, sy + y, sxx + x * x, sxy + x * y)

    def plausible(self, x: float, y: float) -> float:
        if self.sums[0] < _SURE or y <= (most := _SURPRISE * self.at(x)):
            self._surprises = 0
            return y
        self._surprises += 1
        return y if self._surprises > _CONVINCED else most

    def at(self, x: float) -> float:
        weight, sx, sy, sxx, sxy = self.sums
        spread = weight * sxx - sx * sx
        slope = (weight * sxy - sx * sy) / spread if spread > 1e-6 * sx * sx else 0.0
        if slope <= 0:
            return sy / weight
        offset = (sy - slope * sx) / weight
        return offset + slope * x if offset >= 0 else sy / sx * x


class LearnedLoads:
    """Not thread-safe. ``kept``: what a predecessor has learned; what cannot have been learned is
    passed over."""

    def __init__(self, kept: Mapping[str, Sums] | None = None) -> None:
        self._lines: dict[str, _Line] = {}
        for name, sums in (kept or {}).items():
            sound = len(sums) == 5 and all(isfinite(value) and value >= 0 for value in sums)
            if sound and sums[0] > 0:
                share = min(1.0, _KEPT / sums[0])
                self._lines[name] = _Line(tuple(share * value for value in sums))

    def seen(self, engine: str, kv_bytes: float, seconds: float) -> None:
        """A hand-off of so many bytes was there, and so much later the first token."""
        own = self._lines.setdefault(engine, _Line())
        seconds = own.plausible(kv_bytes, seconds)
        own.add(kv_bytes, seconds)
        self._lines.setdefault(_ALL, _Line()).add(kv_bytes, seconds)

    def load_s(self, engine: str, kv_bytes: float) -> float:
        """Seconds; 0 where none was ever seen."""
        line = self._lines.get(engine) or self._lines.get(_ALL)
        return 0.0 if line is None else line.at(kv_bytes)

    def learned(self) -> dict[str, Sums]:
        """To be kept for a successor."""
        return {name: line.sums for name, line in self._lines.items()}
