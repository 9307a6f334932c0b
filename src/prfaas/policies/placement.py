"""Which engine of a cluster: the choices every routing policy shares.

A decode engine is chosen by how full it is, less the share of the prompt it holds already (both
0..1): a whole cached prompt outweighs a full engine, nothing less does. One that is far from the
gateway, or to which nobody can hand over, counts as full on top of that: the near ones are filled
first, what they have no place for spills over. A prefill engine is chosen
by when it would be done with this prompt: its queue, plus what it has not cached of the prompt,
plus what it takes to fetch what it counts as cached.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from prfaas.policies.api import View
from prfaas.policies.views import ClusterView, Costs, EngineView, LinkView, RequestView


def decode_engine(
    request: RequestView, clusters: Sequence[ClusterView], *, avoid: Collection[str] = ()
) -> EngineView | None:
    """The best decode engine that is up and not in ``avoid``, or None."""
    best: EngineView | None = None
    best_score = float("inf")
    cached = request.cached
    for cluster in clusters:
        far = float(cluster.far)
        for engine in cluster.decode_engines:
            if not engine.up or engine.name in avoid:
                continue
            score = engine.assigned / engine.max_requests + far
            if engine.unpaired:
                score += 1.0
            if cached:
                score -= cached.get(engine.name, 0) / request.total_tokens
            if score < best_score:
                best, best_score = engine, score
    return best


def stand_in(request: RequestView, clusters: Sequence[ClusterView]) -> EngineView | None:
    """Where no decode engine is up: the prefill engine of ``clusters`` that is near, then that
    holds most of the prompt, then that is free first; None if none is up. A decode engine that
    drains is one of them: of those that serve a request it may be the last."""
    held = request.cached
    found = [
        (cluster.far, -held.get(engine.name, 0), engine.free_at, engine)
        for cluster in clusters
        for engine in cluster.engines
        if engine.up and (engine.role == "prefill" or engine.draining)
    ]
    return min(found, key=lambda ranked: ranked[:3])[3] if found else None


def prefill_engine(
    request: RequestView,
    engines: Sequence[EngineView],
    costs: Costs,
    *,
    now: float,
    avoid: frozenset[str] = frozenset(),
) -> EngineView | None:
    """The prefill engine that would be done first, of those up and not in ``avoid``; or None."""
    best: EngineView | None = None
    best_done = float("inf")
    cached, total = request.cached, request.total_tokens
    for engine in engines:
        if not engine.up or engine.name in avoid:
            continue
        done = engine.free_at if engine.free_at > now else now
        if done >= best_done:
            continue
        if cached:
            done += costs.prefill_s(engine.name, max(1, total - cached.get(engine.name, 0)))
            done += request.fetch_s.get(engine.name, 0.0)
        if done < best_done:
            best, best_done = engine, done
    return best


def reachable(view: View, target: str) -> list[tuple[ClusterView, LinkView]]:
    """PrfaaS clusters whose line to ``target`` is up, with the line."""
    found = []
    for cluster in view.prfaas_clusters:
        link = view.link(cluster.name, target)
        if link is not None and link.up:
            found.append((cluster, link))
    return found


def longest_cached(request: RequestView, clusters: Sequence[ClusterView]) -> int:
    """The longest prefix of the prompt that any engine of ``clusters`` holds which may be given
    work, in tokens."""
    longest = 0
    cached = request.cached
    if cached:
        for cluster in clusters:
            for engine in cluster.engines:
                held = cached.get(engine.name, 0)
                if held > longest and engine.up:
                    longest = held
    return longest
