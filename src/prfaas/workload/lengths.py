"""Distributions of prompt lengths: what the planner integrates over and the simulator draws from.

Theory of operation. Every quantity of the throughput model is an expectation of a function of the
length L over a range of lengths: P(L > t), E[L | L > t], E[T_prefill(L); L <= t]. A distribution
therefore answers one question, `bucket_expectations(f, edges)`: E[f(L); edge_i < L <= edge_i+1]
for all buckets at once; conditional expectations for every threshold are cumulative sums of it.
Lengths are *uncached* tokens (the paper's L, section 3.4); `scaled` turns total into uncached
lengths for a uniform prefix hit rate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from prfaas.core.errors import ConfigError

FloatArray = NDArray[np.float64]
Function = Callable[[FloatArray], FloatArray]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_PANELS = 256
_LEAST, _MOST = 1e-3, 100.0
"""Of a logarithm: narrower is one length, and what is beyond no length at all."""


class LengthDistribution(ABC):
    """Lengths in tokens on (low, high]; immutable."""

    low: float
    high: float

    @abstractmethod
    def cdf(self, tokens: FloatArray) -> FloatArray:
        """P(L <= tokens), element by element."""

    @abstractmethod
    def quantile(self, probability: FloatArray) -> FloatArray:
        """The length below which a share ``probability`` (0..1) of the requests lies."""

    @abstractmethod
    def bucket_expectations(self, function: Function, edges: FloatArray) -> FloatArray:
        """E[f(L); edges[i] < L <= edges[i+1]] for each i: shape (len(edges) - 1,).

        ``function`` maps an array of lengths to an array of the same shape.
        """

    @abstractmethod
    def scaled(self, factor: float) -> LengthDistribution:
        """The distribution of ``factor * L``; ``factor`` > 0."""

    def cuts(self, count: int) -> FloatArray:
        """About ``count`` rising lengths, half at equal shares of requests, half at equal steps of
        length. The first is just below the shortest, the last the longest."""
        shares, steps = np.linspace(0, 1, count // 2), np.linspace(self.low, self.high, count // 2)
        edges = np.union1d(self.quantile(shares), steps)
        inner = edges[1:] if edges.size > 1 else edges  # All are equally long.
        return np.concatenate(([np.nextafter(self.low, -np.inf)], inner))

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """``count`` independent lengths, whole tokens, at least 1."""
        drawn = np.rint(self.quantile(rng.random(count)))
        return np.asarray(np.maximum(drawn, 1), dtype=np.int64)

    def expectation(
        self, function: Function, *, above: float | None = None, up_to: float | None = None
    ) -> float:
        """E[f(L) | above < L <= up_to]; NaN where that range has no requests."""
        low = self.low if above is None else max(above, self.low)
        high = self.high if up_to is None else min(up_to, self.high)
        if high < low:
            return float("nan")
        edges = self._panels(low, high, from_start=above is None or above < self.low)
        share = float(self.bucket_expectations(np.ones_like, edges).sum())
        if share <= 0:
            return float("nan")
        return float(self.bucket_expectations(function, edges).sum()) / share

    def mean(self, *, above: float | None = None, up_to: float | None = None) -> float:
        """E[L | above < L <= up_to]: the paper's l_long and l_short."""
        value = self.expectation(lambda tokens: tokens, above=above, up_to=up_to)
        # Rounding must leave neither what was asked for nor what a profile may be asked for.
        least = self.low if above is None else max(above, self.low)
        most = self.high if up_to is None else min(up_to, self.high)
        return float(np.clip(value, least, most))

    def share_above(self, tokens: float) -> float:
        """P(L > tokens): the paper's p for a threshold of ``tokens``."""
        return 1.0 - float(self.cdf(np.array([tokens]))[0])

    def share_below(self, tokens: float) -> float:
        """P(L < tokens), up to the weight of one point."""
        return float(self.cdf(np.array([np.nextafter(tokens, 0)]))[0])

    def _panels(self, low: float, high: float, *, from_start: bool) -> FloatArray:
        edges = np.geomspace(max(low, 1e-6), max(high, 1e-6), _PANELS + 1)
        edges[0], edges[-1] = low, high
        if from_start:
            edges[0] = np.nextafter(low, -np.inf)  # A point mass exactly at `low` belongs to it.
        return edges


class TruncatedLogNormal(LengthDistribution):
    """ln L normal with mean ``mu`` and deviation ``sigma``, kept to [low, high] tokens.

    Raises ConfigError unless sigma > 0 and 0 < low < high, all of them finite.
    """

    def __init__(self, mu: float, sigma: float, low: float, high: float) -> None:
        if not (abs(mu) <= _MOST and _LEAST <= sigma <= _MOST and 0 < low < high < inf):
            raise ConfigError(
                f"log-normal lengths need a finite mu within +-{_MOST:g}, sigma > 0 ({_LEAST:g} to "
                f"{_MOST:g}) and 0 < low < high; got mu {mu}, sigma {sigma}, low {low}, high {high}"
            )
        self.mu, self.sigma, self.low, self.high = mu, sigma, float(low), float(high)
        self._start = float(ndtr((np.log(low) - mu) / sigma))
        self._mass = float(ndtr((np.log(high) - mu) / sigma)) - self._start
        if self._mass <= 0:
            raise ConfigError(f"no length of log-normal({mu}, {sigma}) lies in [{low}, {high}]")

    def pdf(self, tokens: FloatArray) -> FloatArray:
        """Density per token; zero outside [low, high]."""
        inside = (tokens >= self.low) & (tokens <= self.high)
        safe = np.clip(tokens, self.low, self.high)
        z = (np.log(safe) - self.mu) / self.sigma
        density = np.exp(-0.5 * z * z) / (safe * self.sigma * np.sqrt(2 * np.pi) * self._mass)
        return np.where(inside, density, 0.0)

    def cdf(self, tokens: FloatArray) -> FloatArray:
        safe = np.clip(tokens, self.low, self.high)
        below = ndtr((np.log(safe) - self.mu) / self.sigma) - self._start
        return np.asarray(np.clip(below / self._mass, 0.0, 1.0))

    def quantile(self, probability: FloatArray) -> FloatArray:
        z = ndtri(self._start + np.asarray(probability) * self._mass)
        return np.asarray(np.clip(np.exp(self.mu + self.sigma * z), self.low, self.high))

    def bucket_expectations(self, function: Function, edges: FloatArray) -> FloatArray:
        """Eight-point Gauss-Legendre per bucket in ln L: exact to rounding for narrow buckets."""
        logs = np.log(np.clip(edges, self.low, self.high))
        middle, half = (logs[1:] + logs[:-1]) / 2, (logs[1:] - logs[:-1]) / 2
        # The nodes' rounding must not leave the range that a profile may be asked for.
        tokens = np.clip(np.exp(middle[:, None] + half[:, None] * _NODES), self.low, self.high)
        weight = half[:, None] * _WEIGHTS * self.pdf(tokens) * tokens
        return np.asarray((function(tokens) * weight).sum(axis=1))

    def scaled(self, factor: float) -> TruncatedLogNormal:
        shift = float(np.log(factor))
        return TruncatedLogNormal(
            self.mu + shift, self.sigma, self.low * factor, self.high * factor
        )


class EmpiricalLengths(LengthDistribution):
    """Observed lengths, each as likely as its ``weights`` (equal where None).

    Raises ConfigError for no lengths, or a length below 1 token.
    """

    def __init__(
        self,
        tokens: Sequence[float] | FloatArray,
        weights: Sequence[float] | FloatArray | None = None,
    ) -> None:
        values = np.asarray(tokens, dtype=np.float64)
        if values.size == 0 or values.min() <= 0:
            raise ConfigError("observed lengths: give at least one, all of them positive")
        share = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
        order = np.argsort(values, kind="stable")
        self._tokens = values[order]
        self._share = share[order] / share.sum()
        self._cumulative = np.cumsum(self._share)
        self.low, self.high = float(self._tokens[0]), float(self._tokens[-1])

    def cdf(self, tokens: FloatArray) -> FloatArray:
        count = np.searchsorted(self._tokens, tokens, side="right")
        return np.asarray(np.minimum(np.concatenate(([0.0], self._cumulative))[count], 1.0))

    def quantile(self, probability: FloatArray) -> FloatArray:
        place = np.searchsorted(self._cumulative, np.asarray(probability) - 1e-12, side="left")
        return np.asarray(self._tokens[np.minimum(place, self._tokens.size - 1)])

    def bucket_expectations(self, function: Function, edges: FloatArray) -> FloatArray:
        running = np.concatenate(([0.0], np.cumsum(function(self._tokens) * self._share)))
        at = running[np.searchsorted(self._tokens, edges, side="right")]
        return np.diff(at)

    def scaled(self, factor: float) -> EmpiricalLengths:
        return self.mapped(lambda tokens: tokens * factor)

    def mapped(self, function: Function) -> EmpiricalLengths:
        """The distribution of ``function(L)``, which must stay positive."""
        return EmpiricalLengths(function(self._tokens), self._share)


class HistogramLengths(LengthDistribution):
    """Shares of requests between rising ``edges``; uniform inside each bucket.

    Raises ConfigError unless there is one weight per bucket, none negative, not all zero.
    """

    def __init__(self, edges: Sequence[float], weights: Sequence[float]) -> None:
        if len(edges) != len(weights) + 1 or len(weights) == 0:
            raise ConfigError(
                f"histogram: {len(edges)} edges and {len(weights)} weights; "
                "give one edge more than weights"
            )
        if edges[0] < 0 or any(a >= b for a, b in pairwise(edges)):
            raise ConfigError(f"histogram: edges must rise from 0 or more: {list(edges)}")
        if not all(0 <= weight < inf for weight in weights) or sum(weights) == 0:
            raise ConfigError("histogram: weights must be 0 or more, and one of them more than 0")
        self._edges = np.asarray(edges, dtype=np.float64)
        self._share = np.asarray(weights, dtype=np.float64) / sum(weights)
        self._cumulative = np.concatenate(([0.0], np.cumsum(self._share)))
        self.low, self.high = float(self._edges[0]), float(self._edges[-1])

    def cdf(self, tokens: FloatArray) -> FloatArray:
        return np.asarray(np.minimum(np.interp(tokens, self._edges, self._cumulative), 1.0))

    def quantile(self, probability: FloatArray) -> FloatArray:
        p = np.asarray(probability, dtype=np.float64)
        place = np.searchsorted(self._cumulative, p, side="left")
        bucket = np.clip(place - 1, 0, self._share.size - 1)
        inside = (p - self._cumulative[bucket]) / np.maximum(self._share[bucket], 1e-300)
        width = np.diff(self._edges)[bucket]
        return np.asarray(self._edges[bucket] + np.clip(inside, 0, 1) * width)

    def bucket_expectations(self, function: Function, edges: FloatArray) -> FloatArray:
        bounded = np.clip(edges, self.low, self.high)
        cuts = np.union1d(bounded, self._edges)
        middle, half = (cuts[1:] + cuts[:-1]) / 2, (cuts[1:] - cuts[:-1]) / 2
        tokens = np.clip(middle[:, None] + half[:, None] * _NODES, self.low, self.high)
        piece = (function(tokens) * _WEIGHTS).sum(axis=1) / 2 * np.diff(self.cdf(cuts))
        running = np.concatenate(([0.0], np.cumsum(piece)))
        return np.diff(running[np.searchsorted(cuts, bounded)])

    def scaled(self, factor: float) -> HistogramLengths:
        return HistogramLengths(list(self._edges * factor), list(self._share))
