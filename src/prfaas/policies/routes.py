"""From "which side" to a whole decision: an engine there, or the other side if it has none."""

from __future__ import annotations

from math import inf

from prfaas.policies.api import Decision, Route, View
from prfaas.policies.first_token import soonest_remote
from prfaas.policies.placement import decode_engine, longest_cached, prefill_engine, reachable
from prfaas.policies.views import EngineView, RequestView

_MAINLY = 0.5
"""Of the time to the first token: a line that takes more of it is looked for a better one."""
_WASTE = 4
"""A prefill engine is not asked to compute this many times what the decode engine still lacks."""


def offload(
    request: RequestView, view: View, decode: EngineView, why: str, *, now: float
) -> Decision:
    """Prefill in the PrfaaS cluster from which the first token comes soonest, by its queues and its
    line, for ``decode``; where its lines are full or missing, for an engine of another PD cluster
    that has a slot and better lines; `local` where none can be reached."""
    taker = decode
    if len(view.pd_clusters) > 1:
        taker, engine = _over_the_best_line(request, view, decode, now)
    else:
        engine = _giver(request, view, decode, now)
    if engine is None:
        return local(request, view, decode, f"{why}, no PrfaaS engine in reach", now=now)
    return Decision(Route.OFFLOAD, engine.name, taker.name, why)


def _giver(request: RequestView, view: View, decode: EngineView, now: float) -> EngineView | None:
    reached = reachable(view, decode.cluster)
    if len(reached) != 1:
        return soonest_remote(request, view, decode, now)[0]
    # The line is the same whichever engine it is.
    engines = view.prefill_engines(reached[0][0].name, decode.name)
    return prefill_engine(request, engines, view.costs, now=now)


def _over_the_best_line(
    request: RequestView, view: View, decode: EngineView, now: float
) -> tuple[EngineView, EngineView | None]:
    """A decode engine, and who prefills for it. ``decode`` unless the first token waits mainly for
    its lines: decode engines are filled evenly as long as that costs nothing."""
    engine, seconds = soonest_remote(request, view, decode, now)
    if engine is not None and _line_s(request, view, decode) < _MAINLY * seconds:
        return decode, engine
    taker, least_s = decode, seconds
    for cluster in view.pd_clusters:
        other = decode_engine(request, (cluster,)) if cluster.name != decode.cluster else None
        if other is None or other.unpaired or other.assigned >= other.max_requests:
            continue
        found, seconds = soonest_remote(request, view, other, now)
        if seconds < least_s:
            taker, engine, least_s = other, found, seconds
    return taker, engine


def _line_s(request: RequestView, view: View, decode: EngineView) -> float:
    """How long the best line to ``decode`` takes for what waits for it and this hand-off."""
    size = view.costs.kv_bytes(request.cached.get(decode.name, 0), request.total_tokens)
    return min(
        (link.outstanding_bytes + size) / link.rate_bytes_per_s
        for _, link in reachable(view, decode.cluster)
    )


def local(
    request: RequestView, view: View, decode: EngineView, why: str, *, now: float
) -> Decision:
    """Prefill on a prefill engine of the decode engine's cluster. On the decode engine if there is
    none, or if that holds so much of the prompt, and the others so little, that it is soonest done
    there: a conversation's next turn."""
    engines = view.prefill_engines(decode.cluster, decode.name)
    engine = prefill_engine(request, engines, view.costs, now=now)
    if engine is None:
        return Decision(Route.DIRECT, None, decode.name, f"{why}, no prefill engine up")
    total, cached = request.total_tokens, request.cached
    if decode.name in cached:
        held = request.resumable.get(decode.name, cached[decode.name])
        if _WASTE * (total - held) <= total - cached.get(engine.name, 0):
            return Decision(Route.DIRECT, None, decode.name, f"{why}, {decode.name} holds {held}")
    return Decision(Route.PD_P, engine.name, decode.name, why)


def _crosses_sooner(view: View, decode: EngineView, cached: int, remote: int) -> bool:
    """Whether the KV cache of tokens [cached, remote) is here sooner over the best line, behind
    what that has still to carry, than an engine here would have computed it."""
    size = view.costs.kv_bytes(cached, remote)
    carried_s = min(
        (
            (link.outstanding_bytes + size) / link.rate_bytes_per_s + link.rtt_s / 2
            for _, link in reachable(view, decode.cluster)
        ),
        default=inf,
    )
    engines = [e for e in view.prefill_engines(decode.cluster, decode.name) if e.up] or [decode]
    return carried_s < min(view.costs.prefill_s(e.name, remote - cached) for e in engines)


def by_threshold(
    request: RequestView,
    view: View,
    decode: EngineView,
    threshold: int,
    *,
    abundant: bool | None,
    now: float,
) -> Decision:
    """Offload above ``threshold`` uncached tokens, or after a longer prefix if bandwidth is
    ``abundant``. None: it is where that prefix crosses sooner than it is computed here."""
    cached = longest_cached(request, (view.cluster(decode.cluster),))
    remote = 0 if abundant is False else longest_cached(request, view.prfaas_clusters)
    if abundant is None and remote > cached and not _crosses_sooner(view, decode, cached, remote):
        remote = 0
    uncached = request.total_tokens - max(cached, remote)
    if uncached > threshold:
        why = f"uncached {uncached} > threshold {threshold}"
        return offload(request, view, decode, why, now=now)
    if remote > cached:
        why = f"longer prefix in a PrfaaS cluster, {remote} tokens against {cached}"
        return offload(request, view, decode, why, now=now)
    why = f"uncached {uncached} <= threshold {threshold}"
    return local(request, view, decode, why, now=now)
