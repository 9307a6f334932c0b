"""``naive``: every prompt is offloaded, one of the two deployments the paper compares with."""

from __future__ import annotations

from prfaas.core.strict import Strict
from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import offload
from prfaas.policies.views import RequestView


class NaiveConfig(Strict, frozen=True):
    """`NaivePolicy` has no options."""


class NaivePolicy(ArrivalPolicy):
    """Every prompt goes to a PrfaaS cluster that can be reached."""

    name = "naive"

    def __init__(self, config: NaiveConfig) -> None:
        pass

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        return offload(request, view, decode, "all prompts go to a PrfaaS cluster", now=now)
