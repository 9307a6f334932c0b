"""``threshold``, the paper's policy: prompts with more uncached tokens than a threshold are
offloaded.

Section 3.4.3. Bandwidth scarce: each cluster's cache counts alone, the uncached length is
l_total - l_pd. Bandwidth abundant: l_total - max(l_pd, l_prfaas); a prompt at or below the
threshold whose longer prefix lies in the PrfaaS cluster is prefilled there too, since that is how
its cached KV crosses the line.

Which of the two it is need not be said: for each prompt with a longer prefix there, the line as it
is now tells whether that crosses sooner than it is computed here.
"""

from __future__ import annotations

from typing import Literal

from prfaas.core.strict import Strict
from prfaas.core.units import parse_tokens
from prfaas.policies.api import ArrivalPolicy, Decision, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import by_threshold
from prfaas.policies.views import RequestView


class ThresholdConfig(Strict, frozen=True):
    """The threshold, and which caches count."""

    threshold: str | int = "4K"
    """Uncached tokens above which a prompt is prefilled in a PrfaaS cluster."""
    bandwidth: Literal["measured", "scarce", "abundant"] = "measured"
    """Whether a longer cached prefix in the other cluster counts (and is sent over the line)."""

    @property
    def threshold_tokens(self) -> int:
        """Raises ConfigError for what is no number of tokens."""
        return parse_tokens(self.threshold)

    @property
    def abundant(self) -> bool | None:
        """Whether bandwidth is abundant; None: the line says, request by request."""
        return None if self.bandwidth == "measured" else self.bandwidth == "abundant"


class ThresholdPolicy(ArrivalPolicy):
    """One threshold for all PD clusters, as configured. Raises ConfigError."""

    name = "threshold"

    def __init__(self, config: ThresholdConfig) -> None:
        self._threshold_tokens = config.threshold_tokens
        self._abundant = config.abundant

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        threshold = self._threshold_tokens
        return by_threshold(request, view, decode, threshold, abundant=self._abundant, now=now)
