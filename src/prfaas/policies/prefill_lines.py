"""Straight lines through prefills that were seen, a + b tokens: of each engine and each cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_Rows = NDArray[np.intp]

_AT_WORK_S = 600.0
"""Who was given a prefill within so long is at work. So nobody whose estimate is too good is tried
more often than that."""
_HALF_S = 120.0
"""After that what is left halves in so long: of a hundred prefills less than a tenth of one after
half an hour. Shorter, and those that are truly slow would be tried more often."""
_GRACE = 2 ** (_AT_WORK_S / _HALF_S)
_PAUSE_S = 60.0
"""Between two prefills no more time counts: a quiet night says nothing of engines, and where a
prompt comes every ten minutes not every second one is to be a trial."""
_LEAST_LEFT = 1e-6
"""More than what is lost where sums are taken from sums."""
_LARGEST_MARK = 1e30


class PrefillLines:
    """Rows are engines, then clusters; ``weight`` says how much was seen of each.

    Time is kept as a mark that grows as what was seen of the idle fades, and each row has the mark
    of when it was given work last: what is left is their ratio.

    Args:
        cluster_of: engine -> cluster.
        before: what there was until now; None: nothing.
    """

    def __init__(self, cluster_of: Mapping[str, str], before: PrefillLines | None = None) -> None:
        names = [*cluster_of, *dict.fromkeys(cluster_of.values())]
        self.engine = {name: row for row, name in enumerate(cluster_of)}
        self.cluster = {name: row for row, name in enumerate(names) if row >= len(cluster_of)}
        self._sums = np.zeros((5, len(names)))
        self.weight: _Floats = self._sums[0]
        self._offset_s, self._s_per_token = np.zeros((2, len(names)))
        self._at: float = -inf if before is None else before._at
        self._mark: float = 1.0 if before is None else before._mark
        self._given = np.full(len(names), self._mark)
        if before is not None:
            for rows, old in ((self.engine, before.engine), (self.cluster, before.cluster)):
                for name in rows.keys() & old.keys():
                    self._given[rows[name]] = before._given[old[name]]

    def put(self, row: int, sums: Sums) -> None:
        """It is known better now."""
        self._sums[:, row] = sums.values
        self._offset_s[row], self._s_per_token[row] = sums.line()

    def scale(self, factor: float) -> None:
        """All weights by the same factor."""
        self._sums *= factor

    def prefill_s(self, rows: _Rows, tokens: _Floats) -> _Floats:
        """Seconds for so many tokens, of each row its own number."""
        seconds: _Floats = self._offset_s[rows] + self._s_per_token[rows] * tokens
        return seconds

    def peers_s(
        self, own: _Rows, peers: _Rows, left: _Floats, tokens: _Floats
    ) -> tuple[_Floats, _Floats]:
        """Seconds by ``peers`` less what is no longer left of ``own``, and the weight of that."""
        sums = self._sums[:, peers] + (left - 1) * self._sums[:, own]
        offset_s, s_per_token = lines_of(sums)
        return offset_s + s_per_token * tokens, sums[0]

    def give(self, engine: str, cluster: str, now: float) -> float:
        """The engine has work now; what was left by then of what was seen of it."""
        self._mark *= 2 ** (min(max(0.0, now - self._at), _PAUSE_S) / _HALF_S)
        self._at = now
        if self._mark > _LARGEST_MARK:
            self._given /= self._mark
            self._mark = 1.0
        row = self.engine[engine]
        left = float(self.left(row))
        self._given[row] = self._given[self.cluster[cluster]] = self._mark
        return left

    def idle(self, rows: _Rows | int) -> NDArray[np.bool_]:
        """Which of them have had no work for so long that what was seen of them fades."""
        found: NDArray[np.bool_] = self._given[rows] * _GRACE < self._mark
        return found

    def left(self, rows: _Rows | int) -> _Floats:
        """The share of what was seen of them that has not faded."""
        left = self._given[rows] * _GRACE / self._mark
        found: _Floats = np.minimum(np.maximum(left, _LEAST_LEFT), 1.0)
        return found


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

    @property
    def values(self) -> tuple[float, ...]:
        """The weight of all, and the sums."""
        return self.weight, self.n, self.t, self.nn, self.nt

    def in_units(self, unit: float) -> tuple[float, ...]:
        """`values` where an observation weighs ``unit``."""
        return tuple(value / unit for value in self.values)

    def add(self, weight: float, n: float, t: float) -> None:
        """One more."""
        self.weight += weight
        self.n += weight * n
        self.t += weight * t
        self.nn += weight * n * n
        self.nt += weight * n * t
        self._line = None

    def join(self, other: Sums, share: float = 1.0) -> None:
        """So much of another's."""
        self.weight += share * other.weight
        self.n += share * other.n
        self.t += share * other.t
        self.nn += share * other.nn
        self.nt += share * other.nt
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


def lines_of(sums: _Floats) -> tuple[_Floats, _Floats]:
    """`Sums.line` of each column of `Sums.values`."""
    weight, n, t, nn, nt = sums
    spread = weight * nn - n * n
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (weight * nt - n * t) / spread
        offset = (t - slope * n) / weight
    sound = (spread > 1e-6 * n * n) & (slope > 0) & (offset >= 0)
    return np.where(sound, offset, 0.0), np.where(sound, slope, t / n)
