"""The schemas in which production traces are published, as requests.

Text is recognised by its first line; what a schema leaves open is settled in
`prfaas.workload.stamps` and `prfaas.workload.blocks`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isfinite
from typing import TypeVar

import msgspec

from prfaas.core.errors import UNREADABLE, ConfigError
from prfaas.workload.blocks import MOONCAKE_BLOCK_TOKENS, block_size
from prfaas.workload.journal import is_journal, parse_journal
from prfaas.workload.lengths import EmpiricalLengths
from prfaas.workload.stamps import SECONDS_PER, Raw, TimeUnit, seconds_after_first
from prfaas.workload.trace import PooledTrace, RecordedTrace, TraceFormat

_RATE_SPAN_S = 600
_LONGEST, _MOST_WEIGHT = 1 << 40, 1e18
_T = TypeVar("_T")


class _MooncakeRow(msgspec.Struct, frozen=True):
    input_length: int
    output_length: int
    timestamp: Raw | None = None
    hash_ids: list[int] = []


class _ServeGen(msgspec.Struct, frozen=True):
    input_hist: dict[str, float]
    output_hist: dict[str, float]
    rate_600s: list[tuple[float, float]] = []


class _Columns(msgspec.Struct, frozen=True):
    """What a table calls its prompts, answers and times, and what its times are in as numbers."""

    prompt: str
    output: str
    time: str
    unit: TimeUnit | None


_TABLES = (
    _Columns("ContextTokens", "GeneratedTokens", "TIMESTAMP", None),
    _Columns("Request tokens", "Response tokens", "Timestamp", "s"),
    _Columns("num_prefill_tokens", "num_decode_tokens", "arrived_at", "s"),
)
_DELIMITERS = ",;\t|"


def parse_trace(text: str, form: TraceFormat) -> RecordedTrace | PooledTrace:
    """Everything in the text of a trace.

    Raises ConfigError where it is none of the schemas, contradicts its own, or is ambiguous where
    ``form`` does not say.
    """
    text = text.lstrip("\r\n\t ")
    if is_journal(text):
        return parse_journal(text)
    if text.startswith("{") and '"input_hist"' in text:
        return _serve_gen(text, form)
    if text.startswith(("{", "[")):
        return _mooncake(text, form)
    try:
        return _any_table(text, form)
    except csv.Error as error:
        raise ConfigError(f"not a table with a value in each cell: {error}") from error


def _any_table(text: str, form: TraceFormat) -> RecordedTrace:
    first = text.partition("\n")[0].strip()
    for delimiter in _DELIMITERS:
        header = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True), [])
        names = [name.strip().casefold() for name in header]
        for columns in _TABLES:
            if {columns.prompt.casefold(), columns.output.casefold()} <= set(names):
                return _table(text, delimiter, names, columns, form)
    raise ConfigError(
        f"first line {first[:80]!r} is no known schema (Mooncake, Azure, BurstGPT, ServeGen, Vidur)"
    )


def _serve_gen(text: str, form: TraceFormat) -> PooledTrace:
    found = _decoded(text, _ServeGen, "")
    starts = [start for start, _ in found.rate_600s]
    scale = _span_scale(starts, form.time_unit) if starts else 1.0
    return PooledTrace(
        prompts=_weighted(found.input_hist),
        outputs=_weighted(found.output_hist),
        rates=[(start * scale, rate) for start, rate in found.rate_600s],
    )


def _span_scale(starts: Sequence[float], unit: TimeUnit | None) -> float:
    """Seconds per unit of the starts, which are whole spans apart."""
    gaps = [b - a for a, b in pairwise(starts)]
    scale = SECONDS_PER[unit or "s"]
    whole = all(_is_whole(gap * scale) for gap in gaps)
    # Spans of 600,000 are whole in seconds too, but then 999 of 1,000 would be missing.
    others = [u for u in SECONDS_PER if u != "s" and gaps and _is_one(min(gaps) * SECONDS_PER[u])]
    if not whole or (unit is None and others):
        raise ConfigError(
            f"rate_600s: starts {starts[:3]} are not {_RATE_SPAN_S} s apart; say what they are in "
            "with time_unit (--time-unit)"
        )
    return scale


def _is_one(gap_s: float) -> bool:
    return abs(gap_s / _RATE_SPAN_S - 1) < 1e-9


def _is_whole(gap_s: float) -> bool:
    spans = gap_s / _RATE_SPAN_S
    return spans >= 1 - 1e-9 and abs(spans - round(spans)) < 1e-9


def _mooncake(text: str, form: TraceFormat) -> RecordedTrace:
    rows = [row for row in _mooncake_rows(text) if row.input_length > 0 and row.output_length > 0]
    prompts = [row.input_length for row in rows]
    size = block_size(prompts, [r.hash_ids for r in rows], told=form.block_tokens) if rows else 1
    times = [row.timestamp for row in rows if row.timestamp is not None]
    if times and len(times) < len(rows):
        raise ConfigError("a timestamp in some lines only; write it in every line or in none")
    # Other publishers use the schema with other units: only what is Mooncake's own is in ms.
    whole = all(not isinstance(at, float) or at.is_integer() for at in times)
    unit: TimeUnit | None = "ms" if size == MOONCAKE_BLOCK_TOKENS and whole else None
    return _recorded(
        times,
        prompts,
        [row.output_length for row in rows],
        # Only whole blocks can be reused.
        [row.hash_ids[: row.input_length // size] for row in rows],
        unit=unit,
        form=form,
        block_tokens=size,
    )


def _mooncake_rows(text: str) -> Iterator[_MooncakeRow]:
    if text.startswith("["):
        yield from _decoded(text, list[_MooncakeRow], "")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _decoded(line, _MooncakeRow, f"line {number}: ")


def _decoded(text: str, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except UNREADABLE as error:
        raise ConfigError(f"{where}not what its first line promises: {error}") from error


def _table(
    text: str, delimiter: str, names: list[str], columns: _Columns, form: TraceFormat
) -> RecordedTrace:
    wanted = [columns.prompt, columns.output]
    timed = columns.time.casefold() in names
    places = [names.index(name.casefold()) for name in wanted + [columns.time] * timed]
    times, prompts, outputs = [], [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    next(reader)
    for cells in reader:
        if not "".join(cells).strip():
            continue
        try:
            found = [cells[place] for place in places]
            prompt, output = _tokens(found[0]), _tokens(found[1])
        except (IndexError, ValueError) as error:
            where = f"line {reader.line_num}"
            raise ConfigError(f"{where}: not what its first line promises: {error}") from error
        if prompt > 0 and output > 0:
            prompts.append(prompt)
            outputs.append(output)
            times += found[2:]
    return _recorded(times, prompts, outputs, [], unit=columns.unit, form=form)


def _tokens(text: str) -> int:
    number = float(text)
    if not isfinite(number) or not number.is_integer():
        raise ValueError(f"{text!r} is no number of tokens")
    return int(number)


def _recorded(
    times: Sequence[Raw],
    prompts: list[int],
    outputs: list[int],
    blocks: list[list[int]],
    *,
    unit: TimeUnit | None,
    form: TraceFormat,
    block_tokens: int = MOONCAKE_BLOCK_TOKENS,
) -> RecordedTrace:
    """In order of arrival, or as they stand where there are no times."""
    arrivals = None
    if times:
        seconds = seconds_after_first(
            times, schema_unit=unit, unit=form.time_unit, zone=form.time_zone
        )
        order = sorted(range(len(seconds)), key=seconds.__getitem__)
        arrivals = [seconds[i] for i in order]
        prompts, outputs = [prompts[i] for i in order], [outputs[i] for i in order]
        blocks = [blocks[i] for i in order] if blocks else []
    return RecordedTrace(
        arrivals=arrivals,
        prompts=prompts,
        outputs=outputs,
        blocks=blocks,
        block_tokens=block_tokens,
    )


def _weighted(histogram: dict[str, float]) -> EmpiricalLengths:
    kept = {int(tokens): w for tokens, w in histogram.items() if int(tokens) > 0 and w > 0}
    if max(kept, default=0) > _LONGEST or sum(kept.values()) > _MOST_WEIGHT:
        raise ConfigError(
            f"a histogram's lengths end at {_LONGEST}, its weights at {_MOST_WEIGHT:g}"
        )
    return EmpiricalLengths(list(kept), list(kept.values()))
