"""``adaptive``, the paper's dual-timescale policy (section 3.4.3): a threshold *and* roles that
follow the load.

Theory of operation. Short term: `AdaptiveThresholdPolicy`. Long term, every ``role_period_s``:
equation (8) balances prefill and decode. If prompts wait on both sides while decode could spare an
engine, the emptiest decode engine turns to prefill; if prefilled requests wait for decode slots
while prefill engines idle, the idlest one turns to decode. A change must be called for twice in a
row (hysteresis), and one engine of a cluster changes at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from prfaas.policies.adaptive_threshold import AdaptiveThresholdConfig, AdaptiveThresholdPolicy
from prfaas.policies.api import Decision, RoleChange, View
from prfaas.policies.views import ClusterView, EngineView, RequestView
from prfaas.policies.waits import prefill_wait_s, remote_wait_s

_FULL = 0.95
"""Of the slots that would be left: from there on decode can spare no engine."""


class AdaptiveConfig(AdaptiveThresholdConfig, frozen=True):
    """Those of the threshold, and when roles change."""

    role_period_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """How often roles are looked at."""
    wait_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """The wait that calls for another role."""


class AdaptivePolicy:
    """Composes the adaptive threshold with role changes. Raises ConfigError."""

    name = "adaptive"
    packs_decode = False

    def __init__(self, config: AdaptiveConfig) -> None:
        self.period_s: float | None = config.period_s
        self._threshold = AdaptiveThresholdPolicy(config)
        self._role_period_s = config.role_period_s
        self._wait_s = config.wait_s
        self._roles_at = 0.0
        self._called_for: dict[str, str | None] = {}
        """PD cluster -> the role called for at the last look."""

    def threshold_tokens(self, cluster: str) -> int:
        """The threshold now for prompts whose decode engine is in ``cluster``."""
        return self._threshold.threshold_tokens(cluster)

    def thresholds(self) -> dict[str, int]:
        """See `MovesThresholds`."""
        return self._threshold.thresholds()

    def follow(self, thresholds: Mapping[str, int]) -> None:
        """See `MovesThresholds`."""
        self._threshold.follow(thresholds)

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        """See `Policy.route`."""
        return self._threshold.route(request, view, now=now)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        """Move thresholds; now and then say which engines change their role."""
        self._threshold.adjust(view, now=now)
        if now < self._roles_at:
            return ()
        self._roles_at = now + self._role_period_s
        return [c for cluster in view.pd_clusters for c in self._change_role(view, cluster, now)]

    def _change_role(self, view: View, cluster: ClusterView, now: float) -> list[RoleChange]:
        wanted = self._wanted(view, cluster, now)
        called = self._called_for.get(cluster.name)
        self._called_for[cluster.name] = wanted
        if wanted is None or wanted != called:
            return []
        self._called_for[cluster.name] = None
        if wanted == "prefill":
            engine = min(_up(cluster.decode_engines), key=lambda e: e.assigned)
            return [RoleChange(engine.name, "prefill", "prompts wait on both sides")]
        engine = min(_up(cluster.prefill_engines), key=lambda e: e.free_at)
        return [RoleChange(engine.name, "decode", "prefilled requests wait for decode slots")]

    def _wanted(self, view: View, cluster: ClusterView, now: float) -> str | None:
        decode, prefill = _up(cluster.decode_engines), _up(cluster.prefill_engines)
        slots = [e.max_requests for e in decode]
        running = sum(e.running for e in decode)
        waits = min(prefill_wait_s(cluster, now), remote_wait_s(view, cluster, now))
        spare = len(decode) > 1 and running < _FULL * (sum(slots) - max(slots))
        if waits > self._wait_s and spare and cluster.waiting_for_decode == 0:
            return "prefill"
        backlog_s = cluster.waiting_for_decode / max(1, sum(slots)) * self._role_period_s
        if backlog_s > self._wait_s and len(prefill) > 1 and waits < self._wait_s:
            return "decode"
        return None


def _up(engines: Sequence[EngineView]) -> list[EngineView]:
    return [engine for engine in engines if engine.up]
