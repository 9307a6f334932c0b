"""Prompt lengths from a production trace (`prfaas.workload.trace`), after prefix reuse.

Where a trace knows prefixes (Mooncake's), their reuse is replayed in order of arrival against one
`PrefixCache`, bounded or not. Without a bound it is what a global pool saves at best.
"""

from __future__ import annotations

import msgspec

from prfaas.workload.lengths import EmpiricalLengths
from prfaas.workload.prefix_cache import PrefixCache
from prfaas.workload.trace import PooledTrace, RecordedTrace


class TraceLengths(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner takes from a trace."""

    uncached: EmpiricalLengths
    mean_output_tokens: float
    hit_rate: float
    """Share of all prompt tokens found in the cache."""


def trace_lengths(trace: RecordedTrace | PooledTrace, *, cache_tokens: int | None) -> TraceLengths:
    """Uncached lengths of a trace with a prefix cache of ``cache_tokens`` (None: unbounded)."""
    if isinstance(trace, PooledTrace):
        answers = trace.outputs.mean()
        return TraceLengths(uncached=trace.prompts, mean_output_tokens=answers, hit_rate=0.0)
    return replay_reuse(trace, cache_tokens)


def replay_reuse(trace: RecordedTrace, cache_tokens: int | None) -> TraceLengths:
    """Uncached lengths of a trace's requests, in order.

    Only whole blocks are reused, and at least one token of every prompt is computed.
    """
    uncached = _uncached(trace, cache_tokens) if trace.blocks else trace.prompts
    return TraceLengths(
        uncached=EmpiricalLengths(uncached),
        mean_output_tokens=sum(trace.outputs) / len(trace.outputs),
        hit_rate=1 - sum(uncached) / sum(trace.prompts),
    )


def _uncached(trace: RecordedTrace, cache_tokens: int | None) -> list[int]:
    cache = PrefixCache(None if cache_tokens is None else cache_tokens // trace.block_tokens)
    uncached = []
    for prompt, blocks in zip(trace.prompts, trace.blocks, strict=True):
        uncached.append(prompt - min(cache.match(blocks) * trace.block_tokens, prompt - 1))
        cache.insert(blocks)
    return uncached
