"""What became of every transfer: the records behind ``GET /transfers/{id}``.

A transfer id names one hand-off; each tensor-parallel rank sends and receives its own part, and an
agent may play either side or, in a local hand-off, both. Records outlive their transfer for a while
so that a late question, offer or import finds out that it is over.

Times are on the clock of `Pool.handle`'s ``now``; a view gives them in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from prfaas.core.handoff import RequestContext
from prfaas.link.api import TransferKey
from prfaas.pool.lifecycle import ExportState, ReceptionState

KEEP_S = 120.0
"""A gateway asks within seconds; a prefill that was cancelled may still start a minute later."""
MAX_RECORDS = 16384
"""Bounds the memory to some 20 MB, whatever is asked or cancelled."""

_OVER = frozenset({"complete", "failed"})
"""Of either side."""


class Received(msgspec.Struct):
    """One rank's receiving side. ``reads``: imports of it that have ended as they should."""

    bytes_total: int
    state: ReceptionState = ReceptionState.RECEIVING
    reason: str | None = None
    bytes_stored: int = 0
    first_byte_at: float | None = None
    completed_at: float | None = None
    reads: int = 0


class Sent(msgspec.Struct):
    """One rank's sending side. ``bytes_acknowledged``: stored by the receiver, when last heard."""

    key: TransferKey
    bytes_total: int
    state: ExportState
    reason: str | None = None
    bytes_acknowledged: int = 0
    bytes_acknowledged_at_export_end: int | None = None
    export_ended_at: float | None = None
    completed_at: float | None = None


class SentView(msgspec.Struct, frozen=True):
    """All ranks' sending sides, summed up."""

    state: str
    reason: str | None
    bytes_total: int
    bytes_acknowledged: int
    bytes_acknowledged_at_export_end: int | None
    export_ended_at: float | None
    completed_at: float | None


class TransferView(msgspec.Struct, frozen=True):
    """The answer of ``GET /transfers/{id}``: all ranks' receiving sides, and ``sent``. ``reads``:
    how often each of them has been read to its end at least."""

    transfer_id: str
    state: str
    reason: str | None = None
    bytes_total: int | None = None
    bytes_stored: int | None = None
    first_byte_at: float | None = None
    completed_at: float | None = None
    sent: SentView | None = None
    reads: int = 0
    request_id: str | None = None


class _Record(msgspec.Struct):
    cancelled: bool = False
    received: dict[int, Received] = {}
    sent: dict[int, Sent] = {}
    touched_at: float = 0.0
    context: RequestContext | None = None

    @property
    def over(self) -> bool:
        """Whether no part is under way."""
        parts: Iterable[Received | Sent] = [*self.received.values(), *self.sent.values()]
        return all(part.state in _OVER for part in parts)


class TransferRecords:
    """Records by transfer id."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def received(self, transfer_id: str, rank: int) -> Received | None:
        """One rank's receiving side, if it is remembered."""
        record = self._records.get(transfer_id)
        return record.received.get(rank) if record else None

    def sent(self, key: TransferKey) -> Sent | None:
        """One rank's sending side, if it is remembered and of this epoch."""
        record = self._records.get(key.transfer_id)
        part = record.sent.get(key.rank) if record else None
        return part if part is not None and part.key == key else None

    def is_cancelled(self, transfer_id: str) -> bool:
        """Whether the gateway has said that it does not want it."""
        record = self._records.get(transfer_id)
        return record is not None and record.cancelled

    def add_received(self, transfer_id: str, rank: int, part: Received, *, now: float) -> None:
        """Replaces what an earlier attempt left behind."""
        self._touch(transfer_id, now=now).received[rank] = part

    def add_sent(self, part: Sent, *, now: float, context: RequestContext | None = None) -> None:
        """Replaces what an earlier attempt left behind."""
        self._touch(part.key.transfer_id, now=now).sent[part.key.rank] = part
        self.note_context(part.key.transfer_id, context)

    def note_context(self, transfer_id: str, context: RequestContext | None) -> None:
        """Whose it is, where that is said and the transfer remembered."""
        record = self._records.get(transfer_id)
        if record is not None and context is not None:
            record.context = context

    def context(self, transfer_id: str) -> RequestContext | None:
        """Whose it is, if that is known."""
        record = self._records.get(transfer_id)
        return None if record is None else record.context

    def cancel(self, transfer_id: str, *, now: float) -> None:
        """Remember that nobody wants this transfer, even if it has not begun here yet."""
        self._touch(transfer_id, now=now).cancelled = True

    def touch(self, transfer_id: str, *, now: float) -> None:
        """A side of it has ended: the record is kept from now on, if it is still there."""
        if transfer_id in self._records:
            self._touch(transfer_id, now=now)

    def _touch(self, transfer_id: str, *, now: float) -> _Record:
        record = self._records.pop(transfer_id, None) or _Record()
        record.touched_at = now
        self._records[transfer_id] = record  # last: the records stay ordered by age
        return record

    def forget_old(self, *, now: float) -> None:
        """Drop records of transfers that have been over for a while, the oldest first."""
        surplus = len(self._records) - MAX_RECORDS
        for transfer_id, record in list(self._records.items()):
            if record.over and (surplus > 0 or record.touched_at + KEEP_S < now):
                del self._records[transfer_id]
                surplus -= 1
            elif record.touched_at + KEEP_S >= now and surplus <= 0:
                return

    def view(
        self, transfer_id: str, *, ranks: int, unix_at_zero: float = 0.0
    ) -> tuple[TransferView, bool]:
        """The transfer as it stands, and whether waiting longer can change nothing.

        Args:
            ranks: how many parts the whole transfer has.
            unix_at_zero: the Unix time at which the clock of ``now`` stood at 0.
        """
        record = self._records.get(transfer_id)
        if record is None:
            return TransferView(transfer_id, "unknown"), False
        request_id = None if record.context is None else record.context.request_id
        received = list(record.received.values())
        sent = _sent_view(list(record.sent.values()), ranks, unix_at_zero)
        if not received:
            state = "failed" if record.cancelled else "unknown"
            reason = "cancelled" if record.cancelled else None
            over = record.cancelled or (sent is not None and sent.state != "sending")
            view = TransferView(transfer_id, state, reason, sent=sent, request_id=request_id)
            return view, over
        state = _joint_state(received, ranks, "receiving")
        begun = [part.first_byte_at for part in received if part.first_byte_at is not None]
        completed = [part.completed_at for part in received]
        view = TransferView(
            transfer_id,
            state,
            next((part.reason for part in received if part.reason), None),
            sum(part.bytes_total for part in received),
            sum(part.bytes_stored for part in received),
            min(begun) + unix_at_zero if begun else None,
            _last(completed, unix_at_zero) if state == "complete" else None,
            sent,
            min(part.reads for part in received) if len(received) >= ranks else 0,
            request_id,
        )
        return view, state != "receiving"


def _joint_state(parts: Sequence[Received | Sent], ranks: int, under_way: str) -> str:
    """Of all ranks' parts together."""
    states = {part.state.value for part in parts}
    if "failed" in states:
        return "failed"
    return "complete" if len(parts) >= ranks and states == {"complete"} else under_way


def _sent_view(parts: list[Sent], ranks: int, unix_at_zero: float) -> SentView | None:
    if not parts:
        return None
    state = _joint_state(parts, ranks, "sending")
    at_end = [part.bytes_acknowledged_at_export_end for part in parts]
    completed = [part.completed_at for part in parts]
    return SentView(
        state=state,
        reason=next((part.reason for part in parts if part.reason), None),
        bytes_total=sum(part.bytes_total for part in parts),
        bytes_acknowledged=sum(part.bytes_acknowledged for part in parts),
        bytes_acknowledged_at_export_end=(
            None if None in at_end else sum(count for count in at_end if count is not None)
        ),
        export_ended_at=_last([part.export_ended_at for part in parts], unix_at_zero),
        completed_at=_last(completed, unix_at_zero) if state == "complete" else None,
    )


def _last(times: list[float | None], unix_at_zero: float) -> float | None:
    """The latest, once all are known."""
    known = [time for time in times if time is not None]
    return max(known) + unix_at_zero if len(known) == len(times) else None
