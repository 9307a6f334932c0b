"""What a walk has seen, as a demand that the equations take."""

from __future__ import annotations

import msgspec
import numpy as np

from prfaas.models.interpolation import FloatArray
from prfaas.models.profiles import PrefillProfile
from prfaas.planner.demand import Demand, Observed
from prfaas.planner.pool_walk import Walk
from prfaas.workload.lengths import EmpiricalLengths

_MOST_GROUPS, _LEAST_OF_GROUP = 64, 16
"""Groups of requests about as long, so that no routing is found that knows single ones."""


class ByLength:
    """The mean of what was seen of requests about as long.

    Args:
        lengths, values: one entry a request, in the same order.
        groups: into how many of about as many requests they are cut, at most; fewer where lengths
            are equal.
    """

    def __init__(self, lengths: FloatArray, values: FloatArray, groups: int) -> None:
        cuts = np.quantile(lengths, np.arange(1, groups) / groups, method="lower")
        self._ends = np.unique(np.append(cuts, lengths.max()))
        place = np.searchsorted(self._ends, lengths)
        self._means = np.bincount(place, weights=values) / np.bincount(place)

    def __call__(self, tokens: FloatArray) -> FloatArray:
        """At any lengths; the same shape comes back."""
        place = np.searchsorted(self._ends, tokens)
        return np.asarray(self._means[np.minimum(place, self._means.size - 1)])


def walked_demand(
    demand: Demand, walked: Walk, *, pd: PrefillProfile, prfaas: PrefillProfile
) -> Demand:
    """The demand with the walk's uncached lengths, and what it has seen of each."""
    lengths = walked.uncached
    pd_s = walked.pd_s - pd.seconds(lengths)
    prfaas_s = walked.prfaas_s - prfaas.seconds(lengths)
    groups = max(1, min(_MOST_GROUPS, lengths.size // _LEAST_OF_GROUP))

    def alike(values: FloatArray) -> ByLength:
        return ByLength(lengths, values, groups)

    return msgspec.structs.replace(
        demand,
        lengths=EmpiricalLengths(lengths),
        observed=Observed(
            prfaas_s=alike(prfaas_s),
            pd_s=alike(pd_s),
            sent_bytes=alike(walked.sent_bytes - demand.kv.bytes(lengths)),
            pulled_bytes=alike(walked.pulled_bytes),
            prfaas_spread_s=ByLength(lengths, prfaas_s, lengths.size),
            pd_spread_s=ByLength(lengths, pd_s, lengths.size),
        ),
    )
