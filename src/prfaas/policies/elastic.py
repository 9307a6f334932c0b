"""``elastic``: *earliest*, where decode engines prefill too, in the time their batches leave free.

Theory of operation. Decode fills the fullest engine first (``packs_decode``), so that what decode
does not need gathers on few engines, and prompts are prefilled there beside the batch, without a
hand-off: the nodes' roles follow the load, in fractions of a node. A decode engine is considered
only while at least ``min_share`` of its time is free, so that no running answer is slowed, while
fewer than ``max_direct`` prompts are on it (they hold decode slots), and while nobody waits for a
slot.
"""

from __future__ import annotations

from math import inf
from typing import Annotated

import msgspec

from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.beside_batch import MAX_DIRECT, MIN_SHARE
from prfaas.policies.earliest import EarliestConfig
from prfaas.policies.first_token import Soonest, earlier_of, soonest_local, soonest_remote
from prfaas.policies.placement import decode_engine
from prfaas.policies.views import ClusterView, RequestView


class ElasticConfig(EarliestConfig, frozen=True):
    """That of *earliest*, and which decode engines may prefill."""

    min_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = MIN_SHARE
    """The share of a decode engine's time that must be free."""
    max_direct: Annotated[int, msgspec.Meta(ge=0)] = MAX_DIRECT
    """How many prompts may be on a decode engine."""


class ElasticPolicy(ArrivalPolicy):
    """Looks at prefill engines everywhere and at the decode engines of the PD cluster."""

    name = "elastic"
    packs_decode = True

    def __init__(self, config: ElasticConfig) -> None:
        self._margin = config.margin
        self._min_share = config.min_share
        self._max_direct = config.max_direct

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        home = view.cluster(decode.cluster)
        local = soonest_local(request, view, decode, now)
        direct = self._soonest_direct(request, view, home)
        if direct[1] < local[1]:
            local = direct
        remote = soonest_remote(request, view, decode, now)
        return earlier_of(local, remote, decode, self._margin)

    def _soonest_direct(self, request: RequestView, view: View, home: ClusterView) -> Soonest:
        """The decode engine that would prefill it first in the time its batch leaves free."""
        best, best_s = None, inf
        if home.waiting_for_decode:
            return None, inf
        for engine in home.decode_engines:
            free = 1 - (engine.running - engine.prefills) / engine.max_requests
            if engine.up and free >= self._min_share and engine.prefills < self._max_direct:
                uncached = max(1, request.total_tokens - request.cached.get(engine.name, 0))
                work_s = engine.queued_s + view.costs.prefill_s(engine.name, uncached)
                if work_s / free < best_s:
                    best, best_s = engine, work_s / free
        return best, best_s
