"""``uncached-gate``: a fixed number of uncached tokens, to compare with.

In the manner of llm-d's prefix-based decider: offload from a fixed number of tokens on that the
decode engine has not cached. It looks at no queue, speed or line.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.strict import Strict
from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import local, offload
from prfaas.policies.views import RequestView


class UncachedGateConfig(Strict, frozen=True):
    """From how many uncached tokens on a prompt is offloaded."""

    tokens: Annotated[int, msgspec.Meta(ge=0)] = 512
    """Uncached tokens from which on a prompt is offloaded."""


class UncachedGatePolicy(ArrivalPolicy):
    """Offloads what reaches the limit."""

    name = "uncached-gate"

    def __init__(self, config: UncachedGateConfig) -> None:
        self._tokens = config.tokens

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        uncached = request.total_tokens - request.cached.get(decode.name, 0)
        why = f"uncached {uncached} tokens"
        if uncached >= max(1, self._tokens):
            return offload(request, view, decode, why, now=now)
        return local(request, view, decode, why, now=now)
