"""A journal read as stories: everything that became of a request, step by step, in words.

Theory of operation. `stories` folds the entries as `timelines` does, and keeps beside each request
that is under way what was said of it; memory is that of the requests under way. A `Timeline` holds
the last attempt's times only; the steps hold every attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from prfaas.core.units import format_count
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import Entry, JournalOpened, RequestEnded
from prfaas.scheduler.timelines import Timeline, TimelineFold

Stage = Literal["wait", "prefill", "transfer", "load", "answer"]


class Step(NamedTuple):
    """``since_s``: seconds since the request arrived."""

    since_s: float
    words: str


class Span(NamedTuple):
    """A stage of the last attempt, from ``start_s`` to ``end_s``, in seconds since it arrived."""

    stage: Stage
    start_s: float
    end_s: float


class Story(msgspec.Struct, frozen=True):
    """A request from its arrival on; ``steps`` by time."""

    timeline: Timeline
    steps: list[Step]


def stories(entries: Iterable[tuple[float, Entry]]) -> Iterator[Story]:
    """The requests of a journal in the order in which they ended; then those that never did."""
    fold = TimelineFold()
    said: dict[str, list[tuple[float, Entry]]] = {}
    for at, item in entries:
        if isinstance(item, JournalOpened):
            yield from _left(fold.open(at, item), said)
            continue
        ended = fold.take(at, item)
        _remember(said, at, item)
        if ended is not None:
            yield Story(ended, _steps(said.pop(ended.request_id, [])))
    yield from _left(fold.rest(), said)


def _left(
    unfinished: list[Timeline], said: dict[str, list[tuple[float, Entry]]]
) -> Iterator[Story]:
    for timeline in unfinished:
        yield Story(timeline, _steps(said.get(timeline.request_id, [])))
    said.clear()


def _remember(said: dict[str, list[tuple[float, Entry]]], at: float, item: Entry) -> None:
    if isinstance(item, e.EngineDown):
        for entries in said.values():
            entries.append((at, item))
    elif isinstance(item, e.RequestArrived | RequestEnded):
        said.setdefault(item.request_id, []).append((at, item))
    else:
        entries_of = said.get(getattr(item, "request_id", ""))
        if entries_of is not None and not isinstance(item, e.TransferProgressed):
            entries_of.append((at, item))


def _steps(entries: list[tuple[float, Entry]]) -> list[Step]:
    """In words, from the gateway's first byte on where it is known, else from the arrival."""
    if not entries:
        return []
    last = entries[-1][1]
    began = last.received_at if isinstance(last, RequestEnded) else entries[0][0]
    engines: set[str] = set()
    steps: list[Step] = []
    why = ""
    for at, item in entries:
        if isinstance(item, e.EngineDown) and item.engine not in engines:
            continue
        words = _words(item, why)
        if isinstance(item, c.StartPrefill | c.StartDecode):
            engines.add(item.engine)
            why = item.reason
        if words:
            steps.append(Step(at - began, words))
    return steps


def _words(item: Any, why: str) -> str:
    """``why``: the reason that was told last; it is not told twice."""
    match item:
        case e.RequestArrived():
            held = ", ".join(f"{engine} {n:,}" for engine, n in sorted(item.cached.items()) if n)
            known = f"; held already: {held}" if held else ""
            return (
                f"{format_count(item.total_tokens, 'token')} to the scheduler, at most "
                f"{item.max_output_tokens:,} of answer{known}"
            )
        case c.StartPrefill():
            return (
                f"attempt {item.attempt}, {item.route}: {item.engine} prefills, and tokens "
                f"{item.from_token:,} to {item.to_token:,} go to {item.decode_engine}"
                f"{_because(item.reason, why)}"
            )
        case c.StartDecode():
            with_what = "the prompt alone" if item.transfer_id is None else "what was handed over"
            return (
                f"attempt {item.attempt}, {item.route}: {item.engine} answers from {with_what}"
                f"{_because(item.reason, why)}"
            )
        case RequestEnded():
            return _ended(item)
        case e.EngineDown():
            return f"{item.engine} is down: {item.reason}"
        case _:
            return _stage_words(item)


def _stage_words(item: Any) -> str:
    match item:
        case e.PrefillCompleted():
            return "prefill is done"
        case e.PrefillFailed():
            return f"prefill failed: {item.reason}"
        case e.TransferCompleted():
            return "all of the KV cache has arrived"
        case e.TransferFailed():
            return f"the transfer failed: {item.reason}"
        case e.FirstToken():
            return "first token"
        case e.DecodeFailed():
            return f"the answer broke off: {item.reason}"
        case e.RequestCompleted():
            tokens = item.output_tokens
            count = "" if tokens is None else f": {format_count(tokens, 'token')}"
            return f"the answer is complete{count}"
        case e.RequestCancelled():
            return "the client went away"
        case c.CancelPrefill():
            return f"prefill on {item.engine} is called off"
        case c.CancelTransfer():
            return f"the transfer to {item.decode_engine} is dropped"
        case c.CancelDecode():
            return f"the answer of {item.engine} is called off"
        case c.FailRequest():
            return f"given up ({item.kind}): {item.message}"
        case _:
            return ""


def _because(reason: str, told: str) -> str:
    return "" if reason == told else f" ({reason})"


def _ended(note: RequestEnded) -> str:
    status = "no answer" if note.status is None else f"status {note.status}"
    alone = "" if note.why_alone is None else f", handed on as it came: {note.why_alone}"
    error = "" if note.error is None else f": {note.error}"
    return f"ended: {note.outcome}, {status}{alone}{error}"


def spans(timeline: Timeline) -> list[Span]:
    """The stages of the last attempt that have a beginning and an end. A transfer begins with its
    first byte, where that is not known with the prefill that it overlaps."""
    t = timeline
    end = t.completed_s if t.completed_s is not None else t.first_token_s
    began = t.prefill_started_s if t.prefill_engine is not None else t.decode_started_s
    first_byte = t.transfer_first_byte_s
    sent_from = first_byte if first_byte is not None else t.prefill_started_s
    handed = t.prefill_engine is not None
    stages: list[tuple[Stage, float | None, float | None]] = [
        ("wait", 0.0, began),
        ("prefill", t.prefill_started_s if handed else None, t.prefilled_s),
        ("transfer", sent_from if handed else None, t.transferred_s),
        ("load" if handed else "prefill", t.decode_started_s, t.first_token_s),
        ("answer", t.first_token_s, end),
    ]
    return [
        Span(stage, start, stop)
        for stage, start, stop in stages
        if start is not None and stop is not None and stop >= start
    ]
