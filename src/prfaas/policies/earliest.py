"""``earliest``: the route with the least expected time to the first token.

Theory of operation. For each request every prefill engine in reach is a candidate, and its time to
first token is estimated from what the scheduler knows now (`first_token`). The least wins. Long
prompts gain most from the faster engines, so under load this sorts by length much as a threshold
does, but the cut moves with every queue, cache and line, at every request. Shipping costs
something: an offload must win by ``margin`` of the local time to be chosen, or a line would carry
bytes to save nothing.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.strict import Strict
from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.first_token import earlier_of, soonest_local, soonest_remote
from prfaas.policies.placement import decode_engine
from prfaas.policies.views import RequestView


class EarliestConfig(Strict, frozen=True):
    """How much an offload must win by."""

    margin: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.02
    """The share of the local time to first token that an offload must save."""


class EarliestPolicy(ArrivalPolicy):
    """Looks at the prefill engines of the PD cluster and of the PrfaaS clusters."""

    name = "earliest"

    def __init__(self, config: EarliestConfig) -> None:
        self._margin = config.margin

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        local = soonest_local(request, view, decode, now)
        remote = soonest_remote(request, view, decode, now)
        return earlier_of(local, remote, decode, self._margin)
