"""Earliest completion: the route with the least expected time to the first token.

Theory of operation. For each request every prefill engine in reach is a candidate, and its time to
first token is estimated from what the scheduler knows now:

    prefill end = when the engine has worked off its queue + T_prefill(what it has not cached)
    KV there    = prefill end, for an engine of the PD cluster
                = max(prefill end, when the line has carried what is before us and our own bytes)
                  + the time for the recurrent state, which leaves last + half a round trip

The least wins. Long prompts gain most from the faster engines, so under load this sorts by length
much as a threshold does, but the cut moves with every queue, cache and line, at every request.
Shipping costs something: an offload must win by ``margin`` of the local time to be chosen, or a
line would carry bytes to save nothing.

With ``elastic`` the PD cluster's decode engines are candidates too. Decode fills the fullest engine
first (``packs_decode``), so that what decode does not need gathers on few engines, and prompts are
prefilled there in the time their batch leaves free: the nodes' roles follow the load, in fractions
of a node. A decode engine is considered only while at least ``min_share`` of its time is free, so
that no running answer is slowed, while fewer than ``max_direct`` prompts are on it (they hold
decode slots), and while nobody waits for a slot.
"""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.policies.api import (
    ClusterView,
    Decision,
    EngineView,
    RequestView,
    RoleChange,
    Route,
    View,
)
from prfaas.policies.placement import decode_engine, reachable


class EarliestCompletionPolicy:
    """``margin``: share of the local time to first token that an offload must save."""

    period_s: float | None = None

    def __init__(
        self,
        margin: float = 0.02,
        *,
        elastic: bool = False,
        min_share: float = 0.15,
        max_direct: int = 2,
    ) -> None:
        self.margin = margin
        self.max_direct = max_direct
        self.name = "elastic" if elastic else "earliest"
        self.elastic = self.packs_decode = elastic
        self.min_share = min_share

    def route(self, request: RequestView, view: View, *, now: float) -> Decision | None:
        decode = decode_engine(request, view.pd_clusters)
        if decode is None:
            return None
        home = view.cluster(decode.cluster)
        best, best_s = self._local(request, view, home, now)
        direct, direct_s = self._direct(request, view, home, now)
        if direct is not None and direct_s < best_s:
            best, best_s = direct, direct_s
        remote, remote_s = self._remote(request, view, decode, now)
        if remote is not None and (best is None or remote_s < best_s * (1 - self.margin)):
            why = f"first token in {remote_s:.2f} s against {best_s:.2f} s locally"
            return Decision(Route.OFFLOAD, remote.name, decode.name, why)
        if best is None:
            return Decision(Route.DIRECT, None, decode.name, "no prefill engine up")
        why = f"first token in {best_s:.2f} s against {remote_s:.2f} s offloaded"
        if best is direct:
            return Decision(Route.DIRECT, None, best.name, why)
        return Decision(Route.PD_P, best.name, decode.name, why)

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        return ()

    def _local(
        self, request: RequestView, view: View, home: ClusterView, now: float
    ) -> tuple[EngineView | None, float]:
        best, best_s = None, float("inf")
        for engine in home.prefill_engines:
            if engine.up:
                seconds = _prefilled_in(request, view, engine, now)
                if seconds < best_s:
                    best, best_s = engine, seconds
        return best, best_s

    def _direct(
        self, request: RequestView, view: View, home: ClusterView, now: float
    ) -> tuple[EngineView | None, float]:
        """The decode engine that would prefill it first in the time its batch leaves free."""
        best, best_s = None, float("inf")
        if self.elastic and not home.waiting_for_decode:
            for engine in home.decode_engines:
                free = 1 - (engine.running - engine.prefills) / engine.max_requests
                if engine.up and free >= self.min_share and engine.prefills < self.max_direct:
                    uncached = max(1, request.total_tokens - request.cached.get(engine.name, 0))
                    work_s = engine.queued_s + view.costs.prefill_s(engine.name, uncached)
                    if work_s / free < best_s:
                        best, best_s = engine, work_s / free
        return best, best_s

    def _remote(
        self, request: RequestView, view: View, decode: EngineView, now: float
    ) -> tuple[EngineView | None, float]:
        best, best_s = None, float("inf")
        costs = view.costs
        from_token = request.cached.get(decode.name, 0)
        for cluster, link in reachable(view, decode.cluster):
            rate = link.rate_bytes_per_s
            size = costs.kv_bytes(from_token, request.total_tokens)
            carried_s = (link.outstanding_bytes + size) / rate
            tail_s = costs.kv_bytes(0, 0) / rate + link.rtt_s / 2
            for engine in cluster.prefill_engines:
                if engine.up:
                    seconds = _prefilled_in(request, view, engine, now)
                    seconds = max(seconds, carried_s) + tail_s
                    if seconds < best_s:
                        best, best_s = engine, seconds
        return best, best_s


def _prefilled_in(request: RequestView, view: View, engine: EngineView, now: float) -> float:
    uncached = max(1, request.total_tokens - request.cached.get(engine.name, 0))
    wait_s = engine.free_at - now
    own_s = view.costs.prefill_s(engine.name, uncached)
    return own_s + wait_s if wait_s > 0 else own_s
