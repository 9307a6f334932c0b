"""The paper's dual-timescale policy (section 3.4.3): a threshold and roles that follow the load.

Theory of operation. Short term, every ``period_s``: the optimum of equation (7) balances the two
prefill stages, so the threshold moves until the expected wait of a newcomer is the same on both
sides. With e = wait in PrfaaS (the shortest queue of an engine, or of the line if that is longer)
minus wait in the PD cluster, threshold = base * exp(e / ``scale_s``). A wait is already the
integral of what is out of balance, so answering in proportion settles without oscillating, unless
the answer is too strong: then the cut swings past its best place, and every prompt on its wrong
side costs more than it balances. The base is the configured threshold and drifts, slowly, to where
the threshold has been. Each PD cluster has a threshold of its own.

The wait for the line is what waits for it over what it carries *now*: when its rate drops, the same
bytes mean a longer wait, and the threshold moves at the next look. It does not jump to where the
throughput model would put it for a line that stays as it is: bytes that queue leave quickly once
the line is back, prompts moved to a slower engine do not. A line that is nearly full counts as a
wait that grows, so that the threshold rises before queues do.

Long term, every ``role_period_s``: equation (8) balances prefill and decode. If prompts wait on
both sides while decode could spare an engine, the emptiest decode engine turns to prefill; if
prefilled requests wait for decode slots while prefill engines idle, the idlest one turns to decode.
A change must be called for twice in a row (hysteresis), and one engine changes at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from prfaas.policies.api import ClusterView, EngineView, RoleChange, View
from prfaas.policies.threshold import ThresholdPolicy

_MAX_SHIFT = 3.0
_LONGEST = float(1 << 20)
_DRIFT_S = 300.0
_NEARLY_FULL = 0.9


class AdaptiveThresholdPolicy(ThresholdPolicy):
    """Starts from ``threshold_tokens``; times seconds. ``wait_s``: the wait that calls for another
    role; ``roles``: whether engines may change theirs at all."""

    name = "adaptive"

    def __init__(
        self,
        threshold_tokens: int,
        *,
        abundant: bool = False,
        period_s: float = 1.0,
        scale_s: float = 30.0,
        role_period_s: float = 60.0,
        wait_s: float = 10.0,
        roles: bool = True,
    ) -> None:
        super().__init__(threshold_tokens, abundant=abundant)
        self.period_s = period_s
        self._scale_s = scale_s
        self._role_period_s = role_period_s
        self._wait_s = wait_s
        self._roles = roles
        self._roles_at = 0.0
        # By PD cluster: the threshold now, what it drifts from, the role called for last time.
        self._thresholds: dict[str, int] = {}
        self._bases: dict[str, float] = {}
        self._called_for: dict[str, str | None] = {}

    def threshold_tokens(self, cluster: str) -> int:
        return self._thresholds.get(cluster, self._threshold_tokens)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        for cluster in view.pd_clusters:
            self._move_threshold(view, cluster, now)
        if not self._roles or now < self._roles_at:
            return ()
        self._roles_at = now + self._role_period_s
        return [c for cluster in view.pd_clusters for c in self._change_role(view, cluster, now)]

    def _move_threshold(self, view: View, cluster: ClusterView, now: float) -> None:
        assert self.period_s is not None
        remote, local = _remote_wait_s(view, cluster, now), _wait_s(cluster, now)
        shift = max(-_MAX_SHIFT, min(_MAX_SHIFT, (remote - local) / self._scale_s))
        base = self._bases.get(cluster.name, float(self._threshold_tokens))
        threshold = max(1.0, min(_LONGEST, base * exp(shift)))
        self._thresholds[cluster.name] = round(threshold)
        self._bases[cluster.name] = base * (threshold / base) ** (self.period_s / _DRIFT_S)

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
        waits = min(_wait_s(cluster, now), _remote_wait_s(view, cluster, now))
        spare = len(decode) > 1 and running < 0.95 * (sum(slots) - max(slots))
        if waits > self._wait_s and spare and cluster.waiting_for_decode == 0:
            return "prefill"
        backlog_s = cluster.waiting_for_decode / max(1, sum(slots)) * self._role_period_s
        if backlog_s > self._wait_s and len(prefill) > 1 and waits < self._wait_s:
            return "decode"
        return None


def _up(engines: Sequence[EngineView]) -> list[EngineView]:
    return [engine for engine in engines if engine.up]


def _wait_s(cluster: ClusterView, now: float) -> float:
    """How long a newcomer would wait for the first free prefill engine; 0 if there is none."""
    waits = [max(0.0, e.free_at - now) for e in _up(cluster.prefill_engines)]
    return min(waits, default=0.0)


def _remote_wait_s(view: View, target: ClusterView, now: float) -> float:
    """The same for the PrfaaS clusters that reach ``target``: engines or line, whichever is worse.
    A very long one if none does."""
    best = float("inf")
    for cluster in view.prfaas_clusters:
        link = view.link(cluster.name, target.name)
        if link is not None and link.up:
            line_s = link.outstanding_bytes / link.rate_bytes_per_s
            if link.utilisation > _NEARLY_FULL:
                line_s += 10 * (link.utilisation - _NEARLY_FULL) * (1 + link.congestion)
            best = min(best, max(_wait_s(cluster, now), line_s))
    return min(best, 60.0)
