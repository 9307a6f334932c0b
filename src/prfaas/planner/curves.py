"""Conditional expectations for every threshold at once: what the search for t runs on."""

from __future__ import annotations

import numpy as np

from prfaas.models.interpolation import FloatArray
from prfaas.planner.demand import Expectations
from prfaas.workload.lengths import Function, LengthDistribution

GRID = 4096
"""Thresholds, about; see `LengthDistribution.cuts`."""
NOBODY = 1e-12
"""A share of requests below this is rounding."""


class ThresholdCurves:
    """Conditional expectations for every threshold of a grid.

    ``thresholds`` has shape (GRID + 1,), from the shortest to the longest length; every array of
    this class has that shape. Where no request is longer (or shorter), values are NaN.
    """

    def __init__(self, lengths: LengthDistribution) -> None:
        self._lengths = lengths
        self.thresholds: FloatArray = lengths.cuts(GRID)
        self._share = lengths.bucket_expectations(np.ones_like, self.thresholds)
        self.p = self._above(self._share)

    def above(self, function: Function, how: Expectations) -> FloatArray:
        """E[f(L) | L > t], or f(E[L | L > t])."""
        return self._conditional(function, how, self._above, self.p)

    def below(self, function: Function, how: Expectations) -> FloatArray:
        """E[f(L) | L <= t], or f(E[L | L <= t])."""
        return self._conditional(function, how, self._below, self._below(self._share))

    def _conditional(
        self, function: Function, how: Expectations, accumulate: Function, share: FloatArray
    ) -> FloatArray:
        inner = function if how == "exact" else _identity
        buckets = self._lengths.bucket_expectations(inner, self.thresholds)
        some = share > NOBODY
        mean = np.full_like(share, np.nan)
        np.divide(accumulate(buckets), share, out=mean, where=some)
        if how == "exact":
            return mean
        result = np.full_like(share, np.nan)
        result[some] = function(np.clip(mean[some], self._lengths.low, self._lengths.high))
        return result

    @staticmethod
    def _above(buckets: FloatArray) -> FloatArray:
        return np.concatenate((np.cumsum(buckets[::-1])[::-1], [0.0]))

    @staticmethod
    def _below(buckets: FloatArray) -> FloatArray:
        return np.concatenate(([0.0], np.cumsum(buckets)))


def _identity(tokens: FloatArray) -> FloatArray:
    return tokens
