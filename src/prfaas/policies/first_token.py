"""When a prompt's first token is to be expected from an engine, under the queues of now.

    prefill end = when the engine has worked off its queue + T_prefill(what it has not cached)
    KV there    = prefill end, for an engine of the PD cluster
                = max(prefill end, when the line has carried what is before us and our own bytes)
                  + the time for the recurrent state, which leaves last + half a round trip

Each ``soonest_*`` answers with the best engine of its kind and its time, or (None, infinity).
"""

from __future__ import annotations

from math import inf

from prfaas.policies.api import Decision, Route, View
from prfaas.policies.columns import MANY
from prfaas.policies.many_remote import ManyRemote
from prfaas.policies.placement import reachable
from prfaas.policies.route_choice import beside_batch
from prfaas.policies.views import EngineView, LinkView, RequestView

Soonest = tuple[EngineView | None, float]
"""An engine, and seconds from now to the first token if it prefills."""


def soonest_local(request: RequestView, view: View, decode: EngineView, now: float) -> Soonest:
    """Over the prefill engines of the cluster of ``decode``."""
    best, best_s = None, inf
    for engine in view.prefill_engines(decode.cluster, decode.name):
        if engine.up:
            seconds = _prefilled_in(request, view, engine, now)
            if seconds < best_s:
                best, best_s = engine, seconds
    return best, best_s


def soonest_remote(
    request: RequestView,
    view: View,
    decode: EngineView,
    now: float,
    *,
    without: LinkView | None = None,
) -> Soonest:
    """Over the PrfaaS clusters whose line to the cluster of ``decode`` is up, but ``without``. The
    one that has prefilled first where all of them would wait for the line."""
    if len(view.engines) >= MANY:
        return ManyRemote(request, view, now).soonest(decode, without=without)
    best, best_s, best_prefilled_s = None, inf, inf
    costs = view.costs
    from_token = request.cached.get(decode.name, 0)
    for cluster, link in reachable(view, decode.cluster):
        if link is without:
            continue
        rate = link.rate_bytes_per_s
        size = costs.kv_bytes(from_token, request.total_tokens)
        carried_s = (link.outstanding_bytes + size) / rate
        tail_s = costs.kv_bytes(0, 0) / rate + link.rtt_s / 2
        for engine in view.prefill_engines(cluster.name, decode.name):
            if engine.up:
                prefilled_s = _prefilled_in(request, view, engine, now)
                seconds = max(prefilled_s, carried_s) + tail_s
                if seconds < best_s or (seconds == best_s and prefilled_s < best_prefilled_s):
                    best, best_s, best_prefilled_s = engine, seconds, prefilled_s
    return best, best_s


def soonest_elsewhere(
    request: RequestView, view: View, decode: EngineView, without: LinkView, now: float
) -> float:
    """Seconds to the first token if ``request`` is prefilled anew: by its cluster, or over any line
    but ``without``; by ``decode`` itself where there is no other engine. Infinite if it has
    no slot or no time to spare for that: who waits for a slot has what is handed over by then."""
    soonest = min(
        soonest_local(request, view, decode, now)[1],
        soonest_remote(request, view, decode, now, without=without)[1],
    )
    if soonest < inf:
        return soonest
    if view.cluster(decode.cluster).waiting_for_decode:
        return inf
    return sum(beside_batch(request, view, decode) or (inf,))


def earlier_of(local: Soonest, remote: Soonest, decode: EngineView, margin: float) -> Decision:
    """Offload if that saves ``margin`` of the local time. ``local`` may be a decode engine, which
    then answers itself, in place of ``decode``."""
    best, best_s = local
    engine, remote_s = remote
    if engine is not None and (best is None or remote_s < best_s * (1 - margin)):
        why = f"first token in {remote_s:.2f} s against {best_s:.2f} s locally"
        return Decision(Route.OFFLOAD, engine.name, decode.name, why)
    if best is None:
        return Decision(Route.DIRECT, None, decode.name, "no prefill engine up")
    why = f"first token in {best_s:.2f} s against {remote_s:.2f} s offloaded"
    if best.role == "decode":
        return Decision(Route.DIRECT, None, best.name, why)
    return Decision(Route.PD_P, best.name, decode.name, why)


def _prefilled_in(request: RequestView, view: View, engine: EngineView, now: float) -> float:
    uncached = max(1, request.total_tokens - request.cached.get(engine.name, 0))
    wait_s = engine.free_at - now
    own_s = view.costs.prefill_s(engine.name, uncached)
    if request.fetch_s:
        own_s += request.fetch_s.get(engine.name, 0.0)
    return own_s + wait_s if wait_s > 0 else own_s
