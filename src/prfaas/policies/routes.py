"""From "which side" to a whole decision: an engine there, or the other side if it has none."""

from __future__ import annotations

from prfaas.policies.api import Decision, EngineView, RequestView, Route, View
from prfaas.policies.first_token import soonest_remote
from prfaas.policies.placement import longest_cached, prefill_engine, reachable

_WASTE = 4
"""A prefill engine is not asked to compute this many times what the decode engine still lacks."""


def offload(
    request: RequestView, view: View, decode: EngineView, why: str, *, now: float
) -> Decision:
    """Prefill in the PrfaaS cluster from which the first token comes soonest, by its queues and its
    line; `local` where none can be reached."""
    reached = reachable(view, decode.cluster)
    if len(reached) == 1:  # The line is the same whichever engine it is.
        engine = prefill_engine(request, reached[0][0].prefill_engines, view.costs, now=now)
    else:
        engine, _ = soonest_remote(request, view, decode, now)
    if engine is None:
        return local(request, view, decode, f"{why}, no PrfaaS engine in reach", now=now)
    return Decision(Route.OFFLOAD, engine.name, decode.name, why)


def local(
    request: RequestView, view: View, decode: EngineView, why: str, *, now: float
) -> Decision:
    """Prefill on a prefill engine of the decode engine's cluster. On the decode engine if there is
    none, or if that holds so much of the prompt, and the others so little, that it is soonest done
    there: a conversation's next turn."""
    engines = view.cluster(decode.cluster).prefill_engines
    engine = prefill_engine(request, engines, view.costs, now=now)
    if engine is None:
        return Decision(Route.DIRECT, None, decode.name, f"{why}, no prefill engine up")
    total, cached = request.total_tokens, request.cached
    if decode.name in cached:
        held = request.resumable.get(decode.name, cached[decode.name])
        if _WASTE * (total - held) <= total - cached.get(engine.name, 0):
            return Decision(Route.DIRECT, None, decode.name, f"{why}, {decode.name} holds {held}")
    return Decision(Route.PD_P, engine.name, decode.name, why)


def by_threshold(
    request: RequestView,
    view: View,
    decode: EngineView,
    threshold: int,
    *,
    abundant: bool,
    now: float,
) -> Decision:
    """Offload above ``threshold`` uncached tokens, or after a longer prefix if ``abundant``."""
    cached = longest_cached(request, (view.cluster(decode.cluster),))
    remote = longest_cached(request, view.prfaas_clusters) if abundant else 0
    uncached = request.total_tokens - max(cached, remote)
    if uncached > threshold:
        why = f"uncached {uncached} > threshold {threshold}"
        return offload(request, view, decode, why, now=now)
    if remote > cached:
        why = f"longer prefix in a PrfaaS cluster, {remote} tokens against {cached}"
        return offload(request, view, decode, why, now=now)
    why = f"uncached {uncached} <= threshold {threshold}"
    return local(request, view, decode, why, now=now)
