"""The two deployments the paper compares itself with, as policies."""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.policies.api import Decision, RequestView, RoleChange, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import local, offload


class FixedSidePolicy:
    """Every prompt takes the same side, whatever its length."""

    period_s: float | None = None
    packs_decode = False

    def __init__(self, *, offloads: bool) -> None:
        self.offloads = offloads
        self.name = "naive" if offloads else "homogeneous"

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        if self.offloads:
            return offload(request, view, decode, "all prompts go to a PrfaaS cluster", now=now)
        return local(request, view, decode, "all prompts stay in the PD cluster", now=now)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        return ()
