"""Prompt lengths from a trace file, after prefix reuse.

Formats: ``mooncake`` (JSON lines with ``input_length``, ``output_length`` and ``hash_ids``, one id
per 512-token block of the prompt, chained: equal ids mean equal prefixes), ``azure`` (CSV with
ContextTokens and GeneratedTokens), ``burstgpt`` (CSV with Request tokens and Response tokens).
Any of them may be gzipped. Only ``mooncake`` knows prefixes; the others have none to reuse.

Reuse is replayed in file order against one cache of whole blocks, evicting the least recently
used, or against an unbounded one: what a global pool at best saves.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from prfaas.core.errors import ConfigError

TraceFormat = Literal["mooncake", "azure", "burstgpt"]
BLOCK_TOKENS = 512
_COLUMNS = {
    "azure": ("ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Request tokens", "Response tokens"),
}


class TracedRequest(msgspec.Struct, frozen=True):
    """One request of a trace: lengths in tokens, and the ids of its prompt's blocks."""

    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


class TraceLengths(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner takes from a trace."""

    uncached_tokens: list[int]
    mean_output_tokens: float
    hit_rate: float
    """Share of all prompt tokens found in the cache."""


def read_trace(path: Path, trace_format: TraceFormat) -> list[TracedRequest]:
    """Every request with a prompt. Raises ConfigError for an unreadable or foreign file."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as lines:
            rows = _mooncake(lines) if trace_format == "mooncake" else _table(lines, trace_format)
            requests = [request for request in rows if request.input_tokens > 0]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no {trace_format} trace: {error!r}") from error
    if not requests:
        raise ConfigError(f"{path}: no request in it")
    return requests


def _mooncake(lines: Iterable[str]) -> Iterator[TracedRequest]:
    for line in lines:
        if line.strip():
            row = json.loads(line)
            blocks = tuple(row.get("hash_ids", ()))
            yield TracedRequest(int(row["input_length"]), int(row["output_length"]), blocks)


def _table(lines: Iterable[str], trace_format: TraceFormat) -> Iterator[TracedRequest]:
    prompt, answer = _COLUMNS[trace_format]
    for row in csv.DictReader(lines):
        yield TracedRequest(int(row[prompt]), int(row[answer]))


def replay_reuse(requests: Iterable[TracedRequest], cache_tokens: int | None) -> TraceLengths:
    """Uncached lengths, in order, with a cache of ``cache_tokens`` (None: unbounded).

    At least one token of every prompt is computed.
    """
    capacity = None if cache_tokens is None else cache_tokens // BLOCK_TOKENS
    cache: OrderedDict[int, None] = OrderedDict()
    uncached, total, produced = [], 0, 0
    for request in requests:
        hits = 0
        for block in request.blocks:
            if block not in cache:
                break
            hits += 1
        found = min(hits * BLOCK_TOKENS, request.input_tokens - 1)
        uncached.append(request.input_tokens - found)
        total += request.input_tokens
        produced += request.output_tokens
        for block in request.blocks:
            cache[block] = None
            cache.move_to_end(block)
        while capacity is not None and len(cache) > capacity:
            cache.popitem(last=False)
    return TraceLengths(
        uncached_tokens=uncached,
        mean_output_tokens=max(produced / len(uncached), 1.0),
        hit_rate=1 - sum(uncached) / total,
    )
