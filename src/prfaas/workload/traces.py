"""Production traces as they are published: one reader for the planner and the simulator.

Schemas, told apart by their first line; ``.gz`` is unpacked:

- Mooncake (JSON lines): ``timestamp`` in ms (in every line or in none), ``input_length``,
  ``output_length``, ``hash_ids``: one id per 512-token block of the prompt, chained, so equal ids
  mean equal prefixes.
- Azure LLM inference (CSV): ``TIMESTAMP,ContextTokens,GeneratedTokens``.
- BurstGPT (CSV): ``Timestamp`` in s, ``Request tokens``, ``Response tokens``.
- Vidur (CSV): ``num_prefill_tokens,num_decode_tokens``, without times.
- ServeGen, pooled (one JSON object): ``input_hist`` and ``output_hist`` map tokens to weights,
  ``rate_600s`` is [[s, requests per s], ...].

Requests without a prompt or an answer are left out.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable
from datetime import datetime
from math import isfinite
from pathlib import Path

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.workload.lengths import EmpiricalLengths

BLOCK_TOKENS = 512
"""Tokens of one block of Mooncake's ``hash_ids``."""


class RecordedTrace(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in order of arrival, in sequences of equal length."""

    arrivals: list[float] | None
    """Seconds after the first, rising; None where the trace records no times (then the order is
    the file's)."""
    prompts: list[int]
    """Tokens, at least 1."""
    outputs: list[int]
    blocks: list[list[int]]
    """Ids of each prompt's whole blocks of `BLOCK_TOKENS`; empty where prefixes are not known."""


class PooledTrace(msgspec.Struct, frozen=True, kw_only=True):
    """Only distributions: ``rates`` are (start in s, requests per s) of successive 600 s; empty
    where the trace records none."""

    prompts: EmpiricalLengths
    outputs: EmpiricalLengths
    rates: list[tuple[float, float]]


class _MooncakeRow(msgspec.Struct, frozen=True):
    input_length: int
    output_length: int
    timestamp: float | None = None
    hash_ids: list[int] = []


class _ServeGen(msgspec.Struct, frozen=True):
    input_hist: dict[str, float]
    output_hist: dict[str, float]
    rate_600s: list[tuple[float, float]] = []


def _seconds(text: str) -> float:
    if not isfinite(seconds := float(text)):
        raise ValueError(f"time {text!r} is no number of seconds")
    return seconds


class _Columns(msgspec.Struct, frozen=True):
    """What a table calls its prompts, answers and times, and how it writes a time."""

    prompt: str
    output: str
    time: str = ""
    seconds: Callable[[str], float] = _seconds


def _iso_seconds(text: str) -> float:
    # The published nanoseconds are more than fromisoformat takes.
    return datetime.fromisoformat(text.strip()[:26].ljust(26, "0")).timestamp()


_TABLES = (
    _Columns("ContextTokens", "GeneratedTokens", "TIMESTAMP", _iso_seconds),
    _Columns("Request tokens", "Response tokens", "Timestamp"),
    _Columns("num_prefill_tokens", "num_decode_tokens"),
)


def read_trace_file(path: Path) -> RecordedTrace | PooledTrace:
    """Everything in the file. Raises ConfigError where it cannot be read, is none of the schemas,
    or holds no request."""
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"trace {path}: cannot be read: {error}") from error
    try:
        trace = _parse(text)
    except ConfigError as error:
        raise ConfigError(f"trace {path}: {error}") from error
    except (msgspec.MsgspecError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise ConfigError(f"trace {path}: not what its first line promises: {error}") from error
    if isinstance(trace, RecordedTrace) and not trace.prompts:
        raise ConfigError(f"trace {path}: no request in it")
    return trace


def _parse(text: bytes) -> RecordedTrace | PooledTrace:
    first = text.split(b"\n", 1)[0].strip()
    if first.startswith(b"{") and b'"input_hist"' in first:
        found = msgspec.json.decode(text, type=_ServeGen)
        return PooledTrace(
            prompts=_weighted(found.input_hist),
            outputs=_weighted(found.output_hist),
            rates=found.rate_600s,
        )
    if first.startswith(b"{"):
        return _mooncake(text)
    names = [name.strip() for name in first.decode().split(",")]
    for columns in _TABLES:
        if columns.prompt in names and columns.output in names:
            lines = csv.DictReader(text.decode().splitlines(), skipinitialspace=True)
            return _table(lines, columns, timed=columns.time in names)
    raise ConfigError(
        f"first line {first[:80]!r} is no known schema (Mooncake, Azure, BurstGPT, ServeGen, Vidur)"
    )


def _mooncake(text: bytes) -> RecordedTrace:
    decoder = msgspec.json.Decoder(_MooncakeRow)
    rows = [r for r in decoder.decode_lines(text) if r.input_length > 0 and r.output_length > 0]
    times = [row.timestamp for row in rows if row.timestamp is not None]
    if times:
        if len(times) < len(rows):
            raise ConfigError("a timestamp in some lines only; write it in every line or in none")
        rows = [rows[i] for i in sorted(range(len(rows)), key=times.__getitem__)]
        times.sort()
    return RecordedTrace(
        arrivals=[(at - times[0]) / 1e3 for at in times] or None,
        prompts=[row.input_length for row in rows],
        outputs=[row.output_length for row in rows],
        # Only whole blocks can be reused.
        blocks=[row.hash_ids[: row.input_length // BLOCK_TOKENS] for row in rows],
    )


def _table(lines: Iterable[dict[str, str]], columns: _Columns, *, timed: bool) -> RecordedTrace:
    rows = [
        (columns.seconds(line[columns.time]) if timed else 0.0, prompt, output)
        for line in lines
        if (prompt := int(float(line[columns.prompt]))) > 0
        and (output := int(float(line[columns.output]))) > 0
    ]
    rows.sort(key=lambda row: row[0])
    return RecordedTrace(
        arrivals=[at - rows[0][0] for at, _, _ in rows] if timed else None,
        prompts=[prompt for _, prompt, _ in rows],
        outputs=[output for _, _, output in rows],
        blocks=[],
    )


def _weighted(histogram: dict[str, float]) -> EmpiricalLengths:
    kept = {int(tokens): w for tokens, w in histogram.items() if int(tokens) > 0 and w > 0}
    return EmpiricalLengths(list(kept), np.array(list(kept.values())))
