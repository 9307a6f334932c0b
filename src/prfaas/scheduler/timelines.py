"""A journal read request by request: what was decided, what it cost, how long each stage took.

Theory of operation. One fold over the entries: a request's `Timeline` opens at its `RequestArrived`
and fills up with what is said of it; the last attempt's engines and times stand where several were
made. It is complete at the gateway's `RequestEnded`, in a simulator's journal at the request's last
event or command. Requests that the gateway refused before it asked the scheduler have only that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import Entry, JournalOpened, RequestEnded


class Timeline(msgspec.Struct, kw_only=True):
    """One request. ``arrived_at`` is in Unix seconds, or in the simulation's own; times ending in
    ``_s`` are seconds from there, None where the request never came that far.

    Tokens [from_token, to_token) were handed over. ``cached_tokens``: prompt tokens that some
    engine of the decode engine's cluster held already. ``kv_bytes_hidden``: of ``kv_bytes``, those
    stored by the receiver before prefill had ended.
    """

    request_id: str
    client_request_id: str | None = None
    endpoint: str | None = None
    arrived_at: float
    stream: bool | None = None
    total_tokens: int | None = None
    cached_tokens: int = 0
    max_output_tokens: int | None = None
    output_tokens: int | None = None
    route: str | None = None
    reason: str | None = None
    prefill_engine: str | None = None
    decode_engine: str | None = None
    attempts: int = 0
    from_token: int = 0
    to_token: int = 0
    kv_bytes: int = 0
    kv_bytes_hidden: int | None = None
    outcome: str = "cancelled"
    status: int | None = None
    error: str | None = None
    rendered_s: float | None = None
    prefill_started_s: float | None = None
    prefilled_s: float | None = None
    transfer_first_byte_s: float | None = None
    transferred_s: float | None = None
    decode_started_s: float | None = None
    first_token_s: float | None = None
    completed_s: float | None = None


def timelines(entries: Iterable[tuple[float, Entry]]) -> Iterator[Timeline]:
    """The requests of a journal in the order in which they ended; then those that never did, with
    the outcome ``unfinished``."""
    fold = TimelineFold()
    for at, item in entries:
        if isinstance(item, JournalOpened):
            yield from fold.open(at, item)
        else:
            ended = fold.take(at, item)
            if ended is not None:
                yield ended
    yield from fold.rest()


_ClusterOf = dict[str, str]
_Note = Callable[["_Live", float, Any, _ClusterOf], None]


class _Live:
    """A request under way: times on the journal's clock until it is complete."""

    def __init__(self, timeline: Timeline, began: float) -> None:
        self.timeline = timeline
        self.began = began
        self.cached: dict[str, int] = {}
        self.decodes: dict[int, tuple[str, float]] = {}
        """Attempt -> its engine and when it began: two may be at it."""

    def since(self, at: float) -> float:
        return at - self.began


class TimelineFold:
    """Takes a journal's entries one by one, as they are written or read."""

    def __init__(self) -> None:
        self._live: dict[str, _Live] = {}
        self._offset = 0.0
        self._cluster_of: dict[str, str] = {}
        self._has_notes = False

    def open(self, at: float, opened: JournalOpened) -> list[Timeline]:
        """Another journal begins: what the last one left is returned."""
        left = self.rest()
        self._offset = 0.0 if opened.unix_time is None else opened.unix_time - at
        self._cluster_of = opened.topology.cluster_of
        self._has_notes = opened.driver == "gateway"
        return left

    def live(self) -> Iterator[Timeline]:
        """Requests that have not ended, oldest first; they go on to be filled in."""
        return (live.timeline for live in self._live.values())

    def rest(self) -> list[Timeline]:
        """What has no end."""
        found = [live.timeline for live in self._live.values()]
        self._live.clear()
        for timeline in found:
            timeline.outcome = "unfinished"
        return found

    def take(self, at: float, item: Entry) -> Timeline | None:
        """Returns the timeline that this entry completes."""
        note = _NOTES.get(type(item))
        if note is not None:
            return self._of_live(at, item, note)
        if isinstance(item, RequestEnded):
            return self._ended(item)
        if isinstance(item, e.RequestArrived):
            self._arrived(at, item)
            return None
        if isinstance(item, e.TopologyChanged):
            self._cluster_of = item.topology.cluster_of
        return None

    def _of_live(self, at: float, item: Any, note: _Note) -> Timeline | None:
        live = self._live.get(item.request_id)
        if live is None:
            return None
        note(live, live.since(at), item, self._cluster_of)
        if not self._has_notes and type(item) in _LAST:
            return self._live.pop(item.request_id).timeline
        return None

    def _arrived(self, at: float, event: e.RequestArrived) -> None:
        timeline = Timeline(
            request_id=event.request_id,
            arrived_at=at + self._offset,
            total_tokens=event.total_tokens,
            max_output_tokens=event.max_output_tokens,
        )
        live = self._live[event.request_id] = _Live(timeline, at)
        live.cached = dict(event.cached)

    def _ended(self, note: RequestEnded) -> Timeline:
        live = self._live.pop(note.request_id, None)
        received_at = note.received_at + self._offset
        if live is None:
            timeline = Timeline(request_id=note.request_id, arrived_at=received_at)
        else:
            timeline = live.timeline
            _shift(timeline, live.began - note.received_at)
            timeline.arrived_at = received_at
        for name in _NOTED:
            setattr(timeline, name, getattr(note, name))
        if note.why_alone is not None:
            timeline.reason, timeline.total_tokens = note.why_alone, None
        return timeline


_NOTED = tuple(
    sorted(set(RequestEnded.__struct_fields__) - {"request_id", "received_at", "why_alone"})
)
_FROM_EVENTS = (
    "prefill_started_s",
    "prefilled_s",
    "transferred_s",
    "decode_started_s",
    "first_token_s",
    "completed_s",
)


def _shift(timeline: Timeline, by_s: float) -> None:
    """The request began so much before the scheduler heard of it."""
    for name in _FROM_EVENTS:
        seconds = getattr(timeline, name)
        if seconds is not None:
            setattr(timeline, name, seconds + by_s)


def _prefill_started(live: _Live, now_s: float, item: c.StartPrefill, of: _ClusterOf) -> None:
    timeline = live.timeline
    _attempt(live, item, item.decode_engine, of)
    timeline.prefill_engine, timeline.prefill_started_s = item.engine, now_s
    timeline.prefilled_s = timeline.transferred_s = None


def _decode_started(live: _Live, now_s: float, item: c.StartDecode, of: _ClusterOf) -> None:
    _attempt(live, item, item.engine, of)
    live.timeline.decode_started_s = now_s
    live.decodes[item.attempt] = item.engine, now_s
    if item.transfer_id is None:
        live.timeline.prefill_engine = None


def _prefilled(live: _Live, now_s: float, _item: e.PrefillCompleted, _of: _ClusterOf) -> None:
    live.timeline.prefilled_s = now_s


def _transferred(live: _Live, now_s: float, _item: e.TransferCompleted, _of: _ClusterOf) -> None:
    live.timeline.transferred_s = now_s


def _first_token(live: _Live, now_s: float, item: e.FirstToken, _of: _ClusterOf) -> None:
    timeline = live.timeline
    timeline.first_token_s = now_s
    if item.attempt in live.decodes:
        timeline.decode_engine, timeline.decode_started_s = live.decodes[item.attempt]


def _completed(live: _Live, now_s: float, item: e.RequestCompleted, _of: _ClusterOf) -> None:
    live.timeline.completed_s, live.timeline.outcome = now_s, "ok"
    live.timeline.output_tokens = item.output_tokens


def _failed(live: _Live, _now_s: float, item: c.FailRequest, _of: _ClusterOf) -> None:
    live.timeline.outcome, live.timeline.error = item.kind.value, item.message


def _cancelled(_live: _Live, _now_s: float, _item: e.RequestCancelled, _of: _ClusterOf) -> None:
    """It is as cancelled, unless something else is said."""


_NOTES: dict[type, _Note] = {
    c.StartPrefill: _prefill_started,
    c.StartDecode: _decode_started,
    e.PrefillCompleted: _prefilled,
    e.TransferCompleted: _transferred,
    e.FirstToken: _first_token,
    e.RequestCompleted: _completed,
    e.RequestCancelled: _cancelled,
    c.FailRequest: _failed,
}
"""What each entry says of a request that is under way."""
_LAST = (e.RequestCompleted, e.RequestCancelled, c.FailRequest)


def _attempt(
    live: _Live,
    command: c.StartPrefill | c.StartDecode,
    decode_engine: str,
    cluster_of: _ClusterOf,
) -> None:
    timeline = live.timeline
    timeline.attempts = max(timeline.attempts, command.attempt)
    timeline.route, timeline.reason = command.route.value, command.reason
    timeline.from_token, timeline.to_token = command.from_token, command.to_token
    timeline.decode_engine = decode_engine
    timeline.cached_tokens = _max_cached(live.cached, decode_engine, cluster_of)


def _max_cached(cached: dict[str, int], engine: str, cluster_of: dict[str, str]) -> int:
    """The longest prefix that an engine of this engine's cluster holds."""
    place = cluster_of.get(engine)
    return max((n for name, n in cached.items() if cluster_of.get(name) == place), default=0)
