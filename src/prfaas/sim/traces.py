"""Production traces as they are published, read into a `Workload`.

Four schemas, told apart by their first line; ``.gz`` is unpacked:

- Mooncake (JSON lines): ``timestamp`` in ms, ``input_length``, ``output_length``, ``hash_ids`` of
  512-token blocks, chained.
- Azure LLM inference (CSV): ``TIMESTAMP,ContextTokens,GeneratedTokens``.
- BurstGPT (CSV): ``Timestamp`` in s, ``Request tokens``, ``Response tokens``.
- ServeGen, pooled (one JSON object): ``input_hist`` and ``output_hist`` map tokens to weights,
  ``rate_600s`` is [[s, requests per s], ...]: lengths are drawn, arrivals follow the rates.

A CSV of lengths alone (``num_prefill_tokens,num_decode_tokens``, Vidur) needs arrivals from the
scenario. Rows with no prompt or no output are left out.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np

from prfaas.core.errors import ConfigError
from prfaas.core.lengths import EmpiricalLengths
from prfaas.sim.workload import Arrivals, Workload

Row = tuple[float, int, int]


class _MooncakeRow(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []


class _ServeGen(msgspec.Struct, frozen=True):
    input_hist: dict[str, float]
    output_hist: dict[str, float]
    rate_600s: list[tuple[float, float]]


def read_trace(
    path: Path, *, arrivals: Arrivals | None, count: int, rng: np.random.Generator
) -> Workload:
    """The whole trace; ``count`` bounds what is drawn (ServeGen). ``arrivals`` replaces the
    trace's own times. Raises ConfigError for a file that is none of the schemas."""
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, gzip.BadGzipFile) as error:
        raise ConfigError(f"trace {path}: cannot be read: {error}") from error
    try:
        workload = _parse(text, path, arrivals, count, rng)
    except (msgspec.MsgspecError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"trace {path}: not what its first line promises: {error}") from error
    if len(workload) == 0:
        raise ConfigError(f"trace {path}: no request in it")
    if arrivals is None:
        return workload
    times = arrivals.times(len(workload), rng).tolist()
    return msgspec.structs.replace(workload, arrivals=times)


def _parse(
    text: bytes, path: Path, arrivals: Arrivals | None, count: int, rng: np.random.Generator
) -> Workload:
    first = text.split(b"\n", 1)[0].strip()
    if first.startswith(b"{") and b'"hash_ids"' in first:
        return _mooncake(text)
    if first.startswith(b"{"):
        return _serve_gen(msgspec.json.decode(text, type=_ServeGen), count, rng)
    columns = [name.strip() for name in first.decode().split(",")]
    for wanted, row in _CSV.items():
        if set(wanted) <= set(columns):
            lines = csv.DictReader(text.decode().splitlines(), skipinitialspace=True)
            if wanted is _VIDUR and arrivals is None:
                raise ConfigError(f"trace {path} has no arrival times; add workload.arrivals")
            return _from_rows(row(line) for line in lines)
    raise ConfigError(
        f"trace {path}: first line {first[:80]!r} is no known schema "
        "(Mooncake, Azure, BurstGPT, ServeGen, Vidur lengths)"
    )


def _mooncake(text: bytes) -> Workload:
    decoder = msgspec.json.Decoder(_MooncakeRow)
    rows = [row for row in decoder.decode_lines(text) if row.input_length and row.output_length]
    rows.sort(key=lambda row: row.timestamp)
    start = rows[0].timestamp if rows else 0.0
    return Workload(
        [(row.timestamp - start) / 1e3 for row in rows],
        [row.input_length for row in rows],
        [row.output_length for row in rows],
        # Only whole blocks can be reused.
        [row.hash_ids[: row.input_length // 512] for row in rows],
        512,
    )


def _serve_gen(trace: _ServeGen, count: int, rng: np.random.Generator) -> Workload:
    starts = np.array([at for at, _ in trace.rate_600s])
    rates = np.array([rate for _, rate in trace.rate_600s])
    expected = np.concatenate(([0.0], np.cumsum(rates * 600.0)))
    edges = np.append(starts, starts[-1] + 600.0) - starts[0]
    unit = np.cumsum(rng.exponential(1.0, count))
    unit = unit[unit < expected[-1]]
    return Workload(
        np.interp(unit, expected, edges).tolist(),
        _histogram(trace.input_hist).sample(rng, unit.size).tolist(),
        _histogram(trace.output_hist).sample(rng, unit.size).tolist(),
    )


def _histogram(weights: dict[str, float]) -> EmpiricalLengths:
    kept = {int(tokens): w for tokens, w in weights.items() if int(tokens) > 0 and w > 0}
    return EmpiricalLengths(list(kept), np.array(list(kept.values())))


def _from_rows(rows: Iterable[Row]) -> Workload:
    kept = sorted(row for row in rows if row[1] > 0 and row[2] > 0)
    start = kept[0][0] if kept else 0.0
    return Workload(
        [at - start for at, _, _ in kept],
        [prompt for _, prompt, _ in kept],
        [output for _, _, output in kept],
    )


def _azure_row(line: dict[str, str]) -> Row:
    # The published nanoseconds are more than fromisoformat takes.
    at = datetime.fromisoformat(line["TIMESTAMP"].strip()[:26].ljust(26, "0"))
    return at.timestamp(), int(line["ContextTokens"]), int(line["GeneratedTokens"])


def _burst_gpt_row(line: dict[str, str]) -> Row:
    return (
        float(line["Timestamp"]),
        int(float(line["Request tokens"])),
        int(float(line["Response tokens"])),
    )


def _vidur_row(line: dict[str, str]) -> Row:
    return 0.0, int(line["num_prefill_tokens"]), int(line["num_decode_tokens"])


_VIDUR = ("num_prefill_tokens", "num_decode_tokens")
_CSV: dict[tuple[str, ...], Callable[[dict[str, str]], Row]] = {
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"): _azure_row,
    ("Timestamp", "Request tokens", "Response tokens"): _burst_gpt_row,
    _VIDUR: _vidur_row,
}
