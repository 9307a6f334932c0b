"""Static conditions on the uncached length, as other projects ship them, to compare with.

``static-length``: offload where the uncached part of the prompt is longer than a fixed number of
tokens *and* more than a fixed share of it, in the manner of Dynamo's conditional disaggregation
(effective input 2048 tokens, ratio 0.7). ``uncached-gate``: offload from a fixed number of tokens
on that the decode engine has not cached, in the manner of llm-d's prefix-based decider. Neither
looks at queues, speeds or the line.
"""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.policies.api import Decision, RequestView, RoleChange, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import local, offload


class StaticLengthPolicy:
    """``tokens`` and ``ratio`` must both be exceeded."""

    name = "static-length"
    period_s: float | None = None
    packs_decode = False

    def __init__(self, tokens: int = 2048, ratio: float = 0.7) -> None:
        self.tokens = tokens
        self.ratio = ratio

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        uncached = request.total_tokens - request.cached.get(decode.name, 0)
        share = uncached / request.total_tokens
        why = f"uncached {uncached} tokens, {share:.0%} of the prompt"
        if uncached > self.tokens and share > self.ratio:
            return offload(request, view, decode, why, now=now)
        return local(request, view, decode, why, now=now)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        return ()


class UncachedGatePolicy(StaticLengthPolicy):
    """``tokens`` uncached tokens alone decide."""

    name = "uncached-gate"

    def __init__(self, tokens: int = 512) -> None:
        super().__init__(tokens - 1, 0.0)
