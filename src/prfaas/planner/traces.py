"""Prompt lengths from a production trace, after prefix reuse.

The schema is told by the first line; ``.gz`` is unpacked:

- Mooncake (JSON lines): ``input_length``, ``output_length`` and ``hash_ids``, one id per 512-token
  block of the prompt, chained, so equal ids mean equal prefixes.
- Tables (CSV) with a prompt and an answer column: Azure (ContextTokens, GeneratedTokens), BurstGPT
  (Request tokens, Response tokens), Vidur (num_prefill_tokens, num_decode_tokens).
- ServeGen, pooled (one JSON object): ``input_hist`` and ``output_hist`` map tokens to weights.

Only Mooncake's knows prefixes. Its reuse is replayed in file order against one cache of whole
blocks that evicts the least recently used, or against an unbounded one: what a global pool saves
at best.
"""

from __future__ import annotations

import csv
import gzip
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.core.lengths import EmpiricalLengths

BLOCK_TOKENS = 512
_COLUMNS = (
    ("ContextTokens", "GeneratedTokens"),
    ("Request tokens", "Response tokens"),
    ("num_prefill_tokens", "num_decode_tokens"),
)


class _MooncakeRow(msgspec.Struct, frozen=True):
    input_length: int
    output_length: int
    hash_ids: list[int] = []


class _ServeGen(msgspec.Struct, frozen=True):
    input_hist: dict[str, float]
    output_hist: dict[str, float]


class TraceLengths(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner takes from a trace."""

    uncached: EmpiricalLengths
    mean_output_tokens: float
    hit_rate: float
    """Share of all prompt tokens found in the cache."""


def trace_lengths(path: Path, *, cache_tokens: int | None) -> TraceLengths:
    """Uncached lengths of a trace file with a prefix cache of ``cache_tokens`` (None: unbounded).

    Raises ConfigError for a file that cannot be read or is none of the schemas.
    """
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError) as error:
        raise ConfigError(f"trace {path}: cannot be read: {error}") from error
    try:
        return _parse(text, cache_tokens)
    except ConfigError as error:
        raise ConfigError(f"trace {path}: {error}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"trace {path}: not what its first line promises: {error}") from error


def _parse(text: bytes, cache_tokens: int | None) -> TraceLengths:
    first = text.split(b"\n", 1)[0].strip()
    if first.startswith(b"{") and b'"input_hist"' in first:
        found = msgspec.json.decode(text, type=_ServeGen)
        prompts = _weighted(found.input_hist)
        answers = _weighted(found.output_hist).mean()
        return TraceLengths(uncached=prompts, mean_output_tokens=answers, hit_rate=0.0)
    if first.startswith(b"{"):
        rows = msgspec.json.Decoder(_MooncakeRow).decode_lines(text)
        return replay_reuse(
            ((row.input_length, row.output_length, row.hash_ids) for row in rows), cache_tokens
        )
    columns = [name.strip() for name in first.decode().split(",")]
    for prompt, answer in _COLUMNS:
        if prompt in columns and answer in columns:
            lines = csv.DictReader(text.decode().splitlines(), skipinitialspace=True)
            return replay_reuse(
                ((int(float(row[prompt])), int(float(row[answer])), []) for row in lines), None
            )
    raise ConfigError(
        f"first line {first[:80]!r} is no known schema (Mooncake, Azure, BurstGPT, Vidur, ServeGen)"
    )


def _weighted(histogram: dict[str, float]) -> EmpiricalLengths:
    kept = {int(tokens): weight for tokens, weight in histogram.items() if int(tokens) > 0}
    return EmpiricalLengths(list(kept), np.array(list(kept.values())))


def replay_reuse(
    requests: Iterable[tuple[int, int, list[int]]], cache_tokens: int | None
) -> TraceLengths:
    """Uncached lengths of (prompt tokens, answer tokens, block ids) in order.

    Only whole blocks are reused, and at least one token of every prompt is computed. Rows without
    a prompt are left out. Raises ConfigError where none is left.
    """
    capacity = None if cache_tokens is None else cache_tokens // BLOCK_TOKENS
    cache: OrderedDict[int, None] = OrderedDict()
    uncached, total, produced = [], 0, 0
    for prompt, answer, ids in requests:
        if prompt <= 0:
            continue
        blocks = ids[: prompt // BLOCK_TOKENS]
        hits = next((n for n, block in enumerate(blocks) if block not in cache), len(blocks))
        uncached.append(prompt - min(hits * BLOCK_TOKENS, prompt - 1))
        total += prompt
        produced += answer
        for block in blocks:
            cache[block] = None
            cache.move_to_end(block)
        while capacity is not None and len(cache) > capacity:
            cache.popitem(last=False)
    if not uncached:
        raise ConfigError("no request in it")
    return TraceLengths(
        uncached=EmpiricalLengths(uncached),
        mean_output_tokens=max(produced / len(uncached), 1.0),
        hit_rate=1 - sum(uncached) / total,
    )
