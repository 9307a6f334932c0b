"""``homogeneous``: a deployment without PrfaaS clusters, one of the two the paper compares with."""

from __future__ import annotations

from prfaas.core.strict import Strict
from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import local
from prfaas.policies.views import RequestView


class HomogeneousConfig(Strict, frozen=True):
    """`HomogeneousPolicy` has no options."""


class HomogeneousPolicy(ArrivalPolicy):
    """Keeps every prompt in its PD cluster."""

    name = "homogeneous"

    def __init__(self, config: HomogeneousConfig) -> None:
        pass

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        return local(request, view, decode, "all prompts stay in the PD cluster", now=now)
