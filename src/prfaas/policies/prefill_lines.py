"""Straight lines through prefills that were seen, a + b tokens: of each engine and each cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]


class PrefillLines:
    """Rows are engines, then clusters; ``weight`` says how much was seen of each.

    Args:
        cluster_of: engine -> cluster.
    """

    def __init__(self, cluster_of: Mapping[str, str]) -> None:
        names = [*cluster_of, *dict.fromkeys(cluster_of.values())]
        self.engine = {name: row for row, name in enumerate(cluster_of)}
        self.cluster = {name: row for row, name in enumerate(names) if row >= len(cluster_of)}
        self.weight, self._offset_s, self._s_per_token = np.zeros((3, len(names)))

    def put(self, row: int, weight: float, line: tuple[float, float]) -> None:
        """It is known better now."""
        self.weight[row] = weight
        self._offset_s[row], self._s_per_token[row] = line

    def scale(self, factor: float) -> None:
        """All weights by the same factor."""
        self.weight *= factor

    def prefill_s(self, rows: NDArray[np.intp], tokens: _Floats) -> _Floats:
        """Seconds for so many tokens, of each row its own number."""
        seconds: _Floats = self._offset_s[rows] + self._s_per_token[rows] * tokens
        return seconds


class Sums:
    """Over prefills of n uncached tokens in t seconds, each with its weight."""

    __slots__ = ("_line", "n", "nn", "nt", "t", "weight")

    def __init__(self) -> None:
        self.weight = self.n = self.t = self.nn = self.nt = 0.0
        self._line: tuple[float, float] | None = None

    @classmethod
    def of(cls, values: Sequence[float], unit: float) -> Sums:
        """What `in_units` gave, each observation as heavy as ``unit``."""
        sums = cls()
        sums.weight, sums.n, sums.t, sums.nn, sums.nt = (unit * value for value in values)
        return sums

    def in_units(self, unit: float) -> tuple[float, ...]:
        """Where an observation weighs ``unit``: the weight of all, and the sums."""
        return tuple(x / unit for x in (self.weight, self.n, self.t, self.nn, self.nt))

    def add(self, weight: float, n: float, t: float) -> None:
        """One more."""
        self.weight += weight
        self.n += weight * n
        self.t += weight * t
        self.nn += weight * n * n
        self.nt += weight * n * t
        self._line = None

    def join(self, other: Sums) -> None:
        """All of another's."""
        self.weight += other.weight
        self.n += other.n
        self.t += other.t
        self.nn += other.nn
        self.nt += other.nt
        self._line = None

    def scale(self, factor: float) -> None:
        """All weights by the same factor."""
        self.weight *= factor
        self.n *= factor
        self.t *= factor
        self.nn *= factor
        self.nt *= factor

    def prefill_s(self, tokens: int) -> float:
        """a + b ``tokens``, see `line`."""
        offset_s, s_per_token = self.line()
        return offset_s + s_per_token * tokens

    def line(self) -> tuple[float, float]:
        """(a, b) of the least squares line; through the origin where that has no sense (one length
        only, or the shorter took longer)."""
        if self._line is None:
            self._line = self._fit()
        return self._line

    def _fit(self) -> tuple[float, float]:
        spread = self.weight * self.nn - self.n * self.n
        if spread > 1e-6 * self.n * self.n:
            slope = (self.weight * self.nt - self.n * self.t) / spread
            offset = (self.t - slope * self.n) / self.weight
            if slope > 0 and offset >= 0:
                return offset, slope
        return 0.0, self.t / self.n
