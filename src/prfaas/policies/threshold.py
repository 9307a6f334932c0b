"""The paper's policy: prompts with more uncached tokens than a threshold go to a PrfaaS cluster.

Section 3.4.3. Bandwidth scarce: each cluster's cache counts alone, the uncached length is
l_total - l_pd. Bandwidth abundant: l_total - max(l_pd, l_prfaas); a prompt at or below the
threshold whose longer prefix lies in the PrfaaS cluster is prefilled there too, since that is how
its cached KV crosses the line.
"""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.policies.api import Decision, RequestView, RoleChange, View
from prfaas.policies.placement import decode_engine, longest_cached
from prfaas.policies.routes import local, offload


class ThresholdPolicy:
    """Static threshold, in uncached tokens."""

    name = "threshold"
    period_s: float | None = None
    packs_decode = False

    def __init__(self, threshold_tokens: int, *, abundant: bool = False) -> None:
        self._threshold_tokens = threshold_tokens
        self.abundant = abundant

    def threshold_tokens(self, cluster: str) -> int:
        """The threshold for prompts whose decode engine is in ``cluster``."""
        return self._threshold_tokens

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        cached = longest_cached(request, (view.cluster(decode.cluster),))
        remote = longest_cached(request, view.prfaas_clusters) if self.abundant else 0
        uncached = request.total_tokens - max(cached, remote)
        threshold = self.threshold_tokens(decode.cluster)
        if uncached > threshold:
            why = f"uncached {uncached} > threshold {threshold}"
            return offload(request, view, decode, why, now=now)
        if remote > cached:
            why = f"longer prefix in a PrfaaS cluster, {remote} tokens against {cached}"
            return offload(request, view, decode, why, now=now)
        why = f"uncached {uncached} <= threshold {threshold}"
        return local(request, view, decode, why, now=now)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        return ()
