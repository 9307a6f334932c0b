"""``adaptive-threshold``: the paper's short timescale (section 3.4.3), a threshold that follows
the load.

Theory of operation. The optimum of equation (7) balances the two prefill stages, so every
``period_s`` the threshold moves until the expected wait of a newcomer is the same on both sides.
With e = wait in PrfaaS (the shortest queue of an engine, or of the line if that is longer) minus
wait in the PD cluster, threshold = base * exp(e / ``scale_s``). A wait is already the integral of
what is out of balance, so answering in proportion settles without oscillating, unless the answer is
too strong: then the cut swings past its best place, and every prompt on its wrong side costs more
than it balances. The base is the configured threshold and drifts, slowly, to where the threshold
has been. Each PD cluster has a threshold of its own.

When a line's rate drops, the same bytes mean a longer wait, and the threshold moves at the next
look. It does not jump to where the throughput model would put it for a line that stays as it is:
bytes that queue leave quickly once the line is back, prompts moved to a slower engine do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Annotated

import msgspec

from prfaas.policies.api import Decision, RoleChange, View
from prfaas.policies.placement import decode_engine
from prfaas.policies.routes import by_threshold
from prfaas.policies.threshold import ThresholdConfig
from prfaas.policies.views import ClusterView, RequestView
from prfaas.policies.waits import prefill_wait_s, remote_wait_s

_MAX_SHIFT = 3.0
"""At most a factor of e^3 = 20 from the base: queues of minutes say no more than that."""
_LONGEST_TOKENS = float(1 << 20)
"""No prompt is longer: a threshold there sends nothing."""
_DRIFT_S = 300.0
"""The base follows over minutes, so that it does not swing with the threshold."""


class AdaptiveThresholdConfig(ThresholdConfig, frozen=True):
    """How the threshold moves; ``threshold`` is where it starts."""

    period_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    """How often the threshold moves."""
    scale_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """The difference of the waits that moves it by a factor of e."""


class AdaptiveThresholdPolicy:
    """A threshold for each PD cluster. Raises ConfigError."""

    name = "adaptive-threshold"
    packs_decode = False

    def __init__(self, config: AdaptiveThresholdConfig) -> None:
        self.period_s: float | None = config.period_s
        self._period_s = config.period_s
        self._scale_s = config.scale_s
        self._abundant = config.abundant
        self._start_tokens = config.threshold_tokens
        self._thresholds: dict[str, int] = {}
        """PD cluster -> the threshold now."""
        self._bases: dict[str, float] = {}
        """PD cluster -> what its threshold drifts from."""

    def threshold_tokens(self, cluster: str) -> int:
        """The threshold now for prompts whose decode engine is in ``cluster``."""
        return self._thresholds.get(cluster, self._start_tokens)

    def thresholds(self) -> dict[str, int]:
        """See `MovesThresholds`."""
        return dict(self._thresholds)

    def follow(self, thresholds: Mapping[str, int]) -> None:
        """See `MovesThresholds`: one's own would go on from there."""
        self._thresholds |= thresholds
        self._bases |= {cluster: float(max(1, tokens)) for cluster, tokens in thresholds.items()}

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        threshold = self.threshold_tokens(decode.cluster)
        return by_threshold(request, view, decode, threshold, abundant=self._abundant, now=now)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        """Move every threshold; no role changes."""
        for cluster in view.pd_clusters:
            self._move_threshold(view, cluster, now)
        return ()

    def _move_threshold(self, view: View, cluster: ClusterView, now: float) -> None:
        remote_s, local_s = remote_wait_s(view, cluster, now), prefill_wait_s(cluster, now)
        shift = max(-_MAX_SHIFT, min(_MAX_SHIFT, (remote_s - local_s) / self._scale_s))
        base = self._bases.get(cluster.name, float(self._start_tokens))
        threshold = max(1.0, min(_LONGEST_TOKENS, base * exp(shift)))
        self._thresholds[cluster.name] = round(threshold)
        self._bases[cluster.name] = base * (threshold / base) ** (self._period_s / _DRIFT_S)
