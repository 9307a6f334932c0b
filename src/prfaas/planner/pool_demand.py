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


class ByLength:
    """The mean of what was seen of requests about as long: the same for each group of them, so that
    no routing is found that knows single requests.

    Args:
        lengths, values: one entry a request, in the same order.
    """

    def __init__(self, lengths: FloatArray, values: FloatArray) -> None:
        groups = max(1, min(_MOST_GROUPS, lengths.size // _LEAST_OF_GROUP))
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
    return msgspec.structs.replace(
        demand,
        lengths=EmpiricalLengths(lengths),
        observed=Observed(
            prfaas_s=ByLength(lengths, walked.prfaas_s - prfaas.seconds(lengths)),
            pd_s=ByLength(lengths, walked.pd_s - pd.seconds(lengths)),
            sent_bytes=ByLength(lengths, walked.sent_bytes - demand.kv.bytes(lengths)),
            pulled_bytes=ByLength(lengths, walked.pulled_bytes),
        ),
    )
