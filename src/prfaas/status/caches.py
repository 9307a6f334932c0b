"""What caches hold, by tier, as agents and engines tell it in their metrics."""

from __future__ import annotations

from prfaas.status.exposition import MetricsPage
from prfaas.status.snapshot import CacheStatus

_MEMORY = "memory"
_USED, _SIZE = "prfaas_pool_cache_used_bytes", "prfaas_pool_cache_size_bytes"


def caches_of(agent: MetricsPage) -> list[CacheStatus]:
    """Of an agent: its arena, and further tiers by their names; empty where it does not cache."""
    sizes = agent.by(_SIZE, "tier")
    used = agent.by(_USED, "tier")
    return [
        CacheStatus(tier=tier or _MEMORY, used_bytes=used.get(tier, 0), size_bytes=size)
        for tier, size in sorted(sizes.items())
        if size
    ]


def hit_share(engine: MetricsPage) -> float | None:
    """Of the prompt tokens an engine has seen since its start, those that its own prefix cache
    held; None before the first."""
    asked = engine.value("vllm:prefix_cache_queries_total")
    return (engine.value("vllm:prefix_cache_hits_total") or 0.0) / asked if asked else None
