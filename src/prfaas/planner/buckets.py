"""Prompt lengths cut into buckets: what a linear program over routes counts in."""

from __future__ import annotations

import numpy as np

from prfaas.models.interpolation import FloatArray
from prfaas.workload.lengths import Function, LengthDistribution

MOST_BUCKETS, LEAST_BUCKETS = 256, 64
"""With the most, value and certificate are 2e-6 apart in the case study. With half as many they are
1e-5 apart for a fleet of 40 routes."""
_COLUMNS = 5120
"""Buckets times routes, about: such a program is solved in a tenth of a second."""
_PANELS_PER_BUCKET = 8


def buckets_for(routes: int) -> int:
    """Into how many buckets a program over so many routes cuts the lengths."""
    return min(max(_COLUMNS // routes, LEAST_BUCKETS), MOST_BUCKETS)


class Buckets:
    """The lengths cut into ``count`` buckets, about; see `LengthDistribution.cuts`. A bucket that
    holds no request is joined to the one after it."""

    def __init__(self, lengths: LengthDistribution, count: int) -> None:
        edges = lengths.cuts(count + 2)
        share = lengths.bucket_expectations(np.ones_like, edges)
        some = share > 1e-9
        self.lengths = lengths
        self.edges: FloatArray = np.concatenate((edges[:1], edges[1:][some]))
        # Costs have kinks where a profile's table has a point: narrow panels keep them exact.
        inside = np.linspace(self.edges[:-1], self.edges[1:], _PANELS_PER_BUCKET, False, axis=1)
        self._panels = np.append(inside, self.edges[-1])
        self._means: dict[Function, FloatArray] = {}
        self.share: FloatArray = self._expectations(np.ones_like)

    def mean(self, function: Function) -> FloatArray:
        """E[f(L) | bucket] for every bucket; computed once for each function."""
        if function not in self._means:
            self._means[function] = self._expectations(function) / self.share
        return self._means[function]

    def expectation(self, function: Function) -> float:
        """E[f(L)], by the same panels as `mean`, so that the two never contradict each other."""
        return float(self._expectations(function).sum())

    def _expectations(self, function: Function) -> FloatArray:
        panels = self.lengths.bucket_expectations(function, self._panels)
        return np.asarray(panels.reshape(-1, _PANELS_PER_BUCKET).sum(axis=1))
