"""A measured curve: points in a table, interpolated between, never guessed beyond.

Theory of operation. Prefill and decode times are measured at a handful of lengths or batch sizes.
Between two points the curve is a straight line, in plain or in log-log coordinates. Beyond the
last point nothing is known (attention grows faster than any line drawn through short prompts), so
asking there is an error. Before the first point the first segment is continued, never below the
line to the origin (which keeps it positive): the error is bounded by that first value, and
`Table.covers_from` lets a caller flag it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import exp, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prfaas.core.errors import ConfigError

Interpolation = Literal["linear", "log-log"]
FloatArray = NDArray[np.float64]


class Table:
    """y(x) through ``points`` (x strictly rising, all numbers positive).

    Args:
        x, y: the points; one point makes a constant.
        interpolation: straight in plain coordinates (``linear``) or in log-log.
        what: named in errors, e.g. ``"profile 'h200': prefill"``.
    Raises ConfigError for no points, unequal counts, x that does not rise, or y <= 0.
    """

    def __init__(
        self, x: Sequence[float], y: Sequence[float], *, interpolation: Interpolation, what: str
    ) -> None:
        if not x or len(x) != len(y):
            raise ConfigError(f"{what}: give at least one point, each with both coordinates")
        if x[0] <= 0 or any(a >= b for a, b in pairwise(x)):
            raise ConfigError(f"{what}: points must be positive and in rising order: {list(x)}")
        if min(y) <= 0:
            raise ConfigError(f"{what}: values must be positive: {list(y)}")
        self.x, self.y = tuple(map(float, x)), tuple(map(float, y))
        self.interpolation: Interpolation = interpolation
        self.what = what
        self._log = interpolation == "log-log"
        self._u = [log(v) for v in self.x] if self._log else list(self.x)
        v = [log(v) for v in self.y] if self._log else list(self.y)
        self._slope = [
            (v1 - v0) / (u1 - u0)
            for (u0, u1), (v0, v1) in zip(pairwise(self._u), pairwise(v), strict=True)
        ] or [0.0]
        self._v = v
        # Where each segment but the first begins: what lies before or beyond belongs to an end one.
        self._joints = self._u[1:-1]

    @property
    def covers_from(self) -> float:
        """The first x in the table: below it the first segment is continued."""
        return self.x[0]

    @property
    def covers_to(self) -> float:
        """The last x in the table: above it asking is refused."""
        return self.x[-1]

    def at(self, x: float) -> float:
        """y at one x. Raises ConfigError beyond the last point."""
        if x > self.x[-1]:
            self._refuse(x)
        u = log(max(x, 1e-9)) if self._log else x
        segment = bisect_right(self._joints, u)
        v = self._v[segment] + self._slope[segment] * (u - self._u[segment])
        if self._log:
            return exp(v)
        return v if x >= self.x[0] else max(v, self.y[0] * x / self.x[0])

    def at_each(self, x: FloatArray) -> FloatArray:
        """y at every x of an array, same shape. Raises ConfigError beyond the last point."""
        if x.size and x.max() > self.x[-1]:
            self._refuse(float(x.max()))
        u = np.log(np.maximum(x, 1e-9)) if self._log else x
        segment = np.clip(np.searchsorted(self._u, u, side="right") - 1, 0, len(self._slope) - 1)
        v = np.take(self._v, segment) + np.take(self._slope, segment) * (
            u - np.take(self._u, segment)
        )
        if self._log:
            return np.asarray(np.exp(v))
        return np.where(x >= self.x[0], v, np.maximum(v, self.y[0] * x / self.x[0]))

    def _refuse(self, x: float) -> None:
        raise ConfigError(
            f"{self.what}: the table ends at {self.x[-1]:.0f} and was asked for {x:.0f}; "
            "measure a point there and add it, or shorten the workload"
        )
