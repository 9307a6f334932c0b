"""One PrfaaS cluster, one PD cluster, one line: the search for the threshold and the split.

Theory of operation. The paper sends every prompt longer than t to the PrfaaS cluster and splits
the PD cluster's nodes into N_p for prefill and N_d for decode; the slowest stage bounds the
throughput (equation 6). All that depends on t are conditional expectations over L > t and L <= t,
so they are computed once, on a grid of thresholds, as cumulative sums over length buckets
(`ThresholdCurves`); each split is then a few vector operations and the whole grid is searched.
"""

from __future__ import annotations

from math import inf

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.models.interpolation import FloatArray
from prfaas.models.profiles import PrefillProfile
from prfaas.planner import equations as eq
from prfaas.planner.curves import NOBODY, ThresholdCurves
from prfaas.planner.demand import Decode, Demand, Expectations
from prfaas.workload.lengths import Function


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """One operating point of a deployment and what bounds it; a column of the paper's Table 6."""

    expectations: Expectations
    threshold_tokens: float | None
    """None: nothing is offloaded, or everything is."""
    n_prfaas: int
    n_p: int
    n_d: int
    offloaded_share: float
    mean_offloaded_tokens: float | None
    theta_prfaas: float | None
    theta_pd_p: float | None
    theta_pd_d: float
    lambda_max: float
    egress_bytes_per_s: float
    """KV bytes that cross the line at ``lambda_max``."""
    binding: str


class TwoClusters:
    """N_prfaas instances, a line of ``line_bytes_per_s``, and PD instances to split."""

    def __init__(
        self,
        demand: Demand,
        *,
        prfaas: PrefillProfile,
        pd_prefill: PrefillProfile,
        decode: Decode,
        line_bytes_per_s: float,
    ) -> None:
        self.demand, self.decode, self.line = demand, decode, line_bytes_per_s
        self._prfaas, self._pd = prfaas, pd_prefill
        self._curves = ThresholdCurves(demand.lengths)
        self._cached: dict[Expectations, tuple[FloatArray, FloatArray, FloatArray]] = {}

    @property
    def thresholds(self) -> FloatArray:
        """The grid of thresholds in tokens."""
        return self._curves.thresholds

    def _times(self, how: Expectations) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Seconds of a prefill and bytes on the line for each of L > t, seconds for L <= t, for
        every threshold. What others pull over the line counts with those bytes."""
        if how not in self._cached:
            curves, seen = self._curves, self.demand.observed
            long_s = curves.above(self._prfaas.seconds, how)
            long_bytes = curves.above(self.demand.kv.bytes, how)
            short_s = curves.below(self._pd.seconds, how)
            if seen is not None:  # Always exact: a mean load at the mean length means nothing.
                long_s = long_s + curves.above(seen.prfaas_s, "exact")
                short_s = short_s + curves.below(seen.pd_s, "exact")
                long_bytes = long_bytes + curves.above(seen.sent_bytes, "exact")
                with np.errstate(divide="ignore", invalid="ignore"):
                    others = (1 - curves.p) / curves.p * curves.below(seen.pulled_bytes, "exact")
                long_bytes = long_bytes + np.nan_to_num(others, posinf=0.0)
            self._cached[how] = long_s, long_bytes, short_s
        return self._cached[how]

    def lambdas(self, n_prfaas: int, n_p: int, n_d: int, how: Expectations) -> FloatArray:
        """Lambda_max for every threshold of the grid (Figure 5b): (3), (4) and (6) of arrays."""
        long_s, long_bytes, short_s = self._times(how)
        p = self._curves.p
        with np.errstate(divide="ignore", invalid="ignore"):
            theta_prfaas = np.minimum(n_prfaas / long_s, self.line / long_bytes)
            by_prfaas = np.where(p > NOBODY, theta_prfaas / p, inf)
            by_pd_p = np.where(p < 1 - NOBODY, n_p / short_s / (1 - p), inf)
        bounds = np.minimum(np.nan_to_num(by_prfaas, nan=0.0), np.nan_to_num(by_pd_p, nan=0.0))
        return np.asarray(np.minimum(bounds, self.decode.rate(n_d, self.demand.output_tokens)))

    def best(self, n_prfaas: int, n_pd: int, how: Expectations) -> Split:
        """The best threshold and split of ``n_pd`` nodes. Raises ConfigError below 2 nodes."""
        if n_pd < 2:
            raise ConfigError("a PD cluster needs at least 2 instances: one prefills, one decodes")
        splits = (self.best_threshold(n_prfaas, n_p, n_pd - n_p, how) for n_p in range(1, n_pd))
        return max(splits, key=lambda split: split.lambda_max)

    def best_threshold(self, n_prfaas: int, n_p: int, n_d: int, how: Expectations) -> Split:
        """The best threshold for a given split; in a tie, the least traffic on the line."""
        values = self.lambdas(n_prfaas, n_p, n_d, how)
        index = int(np.flatnonzero(values >= values.max() * (1 - 1e-9))[-1])
        return self.at(float(self.thresholds[index]), n_prfaas, n_p, n_d, how)

    def at(self, threshold: float, n_prfaas: int, n_p: int, n_d: int, how: Expectations) -> Split:
        """The operating point of one threshold and split: Lambda_max is the least bound (6)."""
        lengths, kv = self.demand.lengths, self.demand.kv

        def over(function: Function, *, above: bool) -> float:
            limits = {"above": threshold} if above else {"up_to": threshold}
            if how == "exact":
                return lengths.expectation(function, **limits)
            return float(function(np.array([lengths.mean(**limits)]))[0])

        def seen(function: Function, *, above: bool) -> float:
            limits = {"above": threshold} if above else {"up_to": threshold}
            return lengths.expectation(function, **limits)

        p = lengths.share_above(threshold)
        p = 0.0 if p < NOBODY else 1.0 if p > 1 - NOBODY else p
        theta_prfaas = theta_pd_p = None
        bounds = {"decode": self.decode.rate(n_d, self.demand.output_tokens)}
        observed = self.demand.observed
        pulled = 0.0
        if observed is not None and 0 < p < 1:
            pulled = seen(observed.pulled_bytes, above=False)
        if p > 0:
            long_s, long_bytes = over(self._prfaas.seconds, above=True), over(kv.bytes, above=True)
            if observed is not None:
                long_s += seen(observed.prfaas_s, above=True)
                long_bytes += seen(observed.sent_bytes, above=True) + (1 - p) / p * pulled
            theta_prfaas = eq.prfaas_throughput(n_prfaas, long_s, self.line, long_bytes)
            by_line = theta_prfaas < n_prfaas / long_s
            bounds["line" if by_line else "PrfaaS prefill"] = theta_prfaas / p
        if p < 1:
            short_s = over(self._pd.seconds, above=False)
            if observed is not None:
                short_s += seen(observed.pd_s, above=False)
            theta_pd_p = eq.pd_prefill_throughput(n_p, short_s)
            bounds["PD prefill"] = theta_pd_p / (1 - p)
        binding = min(bounds, key=lambda name: bounds[name])
        lam = bounds[binding]
        sent = lengths.expectation(self.demand.sent_bytes(), above=threshold) if p > 0 else 0.0
        return Split(
            expectations=how,
            threshold_tokens=threshold if 0 < p < 1 else None,
            n_prfaas=n_prfaas,
            n_p=n_p,
            n_d=n_d,
            offloaded_share=p,
            mean_offloaded_tokens=lengths.mean(above=threshold) if p > 0 else None,
            theta_prfaas=theta_prfaas,
            theta_pd_p=theta_pd_p,
            theta_pd_d=self.decode.rate(n_d, self.demand.output_tokens),
            lambda_max=lam,
            egress_bytes_per_s=lam * p * sent + lam * (1 - p) * pulled,
            binding=binding,
        )
