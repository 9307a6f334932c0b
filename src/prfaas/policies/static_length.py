"""``static-length``: two fixed conditions on the uncached length, to compare with.

In the manner of Dynamo's conditional disaggregation (effective input 2048 tokens, ratio 0.7):
offload where the uncached part of the prompt is longer than a fixed number of tokens *and* more
than a fixed share of it. It looks at no queue, speed or line.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.strict import Strict
from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import local, offload
from prfaas.policies.views import RequestView


class StaticLengthConfig(Strict, frozen=True):
    """The two limits; both must be exceeded."""

    tokens: Annotated[int, msgspec.Meta(ge=0)] = 2048
    """Uncached tokens."""
    ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7
    """The uncached share of the prompt."""


class StaticLengthPolicy(ArrivalPolicy):
    """Offloads what exceeds both limits."""

    name = "static-length"

    def __init__(self, config: StaticLengthConfig) -> None:
        self._tokens = config.tokens
        self._ratio = config.ratio

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        uncached = request.total_tokens - request.cached.get(decode.name, 0)
        share = uncached / request.total_tokens
        why = f"uncached {uncached} tokens, {share:.0%} of the prompt"
        if uncached > self._tokens and share > self._ratio:
            return offload(request, view, decode, why, now=now)
        return local(request, view, decode, why, now=now)
