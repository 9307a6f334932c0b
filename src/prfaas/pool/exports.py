"""The sending side: slots that engines filled, on their way to an agent (perhaps this one).

`pool.lifecycle.EXPORT` is an export's life. It ends once, with or without its engine; the engine
ends it too, and only then (or at its deadline) it is forgotten. Slots that the link reads outlast
both: they are free when the link has let go of every extent of them.
"""

from __future__ import annotations

from collections.abc import Callable

from prfaas.core.errors import InvariantError
from prfaas.core.transitions import advance
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.books import Books
from prfaas.pool.description import Description
from prfaas.pool.effects import CancelSend, ForgetSend, HandedOver, SendSlot, StartSend, StopExport
from prfaas.pool.events import (
    ExportAborted,
    ExportBegun,
    ExportFinished,
    ExtentReleased,
    SendCompleted,
    SendFailed,
    SendProgressed,
    SlotFilled,
)
from prfaas.pool.export import Export, checked_extents, malformed
from prfaas.pool.leases import Leases
from prfaas.pool.lifecycle import EXPORT, ExportState, ExportStep
from prfaas.pool.receptions import Receptions
from prfaas.pool.records import Sent
from prfaas.pool.sent_slots import SentSlots
from prfaas.pool.slots import ArenaFull
from prfaas.pool.stalls import exports_to_stop


class Exports:
    """Every export that is not forgotten, oldest first.

    Args:
        name: this agent's own: what goes there is a local hand-off.
    """

    def __init__(
        self,
        books: Books,
        receptions: Receptions,
        leases: Leases,
        sent: SentSlots,
        *,
        name: str,
    ) -> None:
        self._books, self._receptions, self._leases = books, receptions, leases
        self._sent = sent
        self._name = name
        self._live: dict[tuple[str, int], Export] = {}

    def __len__(self) -> int:
        return len(self._live)

    # what engines say

    def begun(self, event: ExportBegun) -> None:
        """A new one, or `StopExport` at once."""
        books = self._books
        entry = books.engines.of(event.connection)
        refusal = self._why_not(event, entry.rank)
        if refusal is not None:
            books.effects.append(StopExport(event.connection, event.transfer_id, refusal))
            return
        offer = TransferOffer(
            TransferKey(event.transfer_id, entry.rank, books.next_epoch()),
            entry.fingerprint,
            event.from_token,
            event.to_token,
            event.total_bytes,
            event.deadline_s,
            event.priority,
            event.prompt_digest,
            event.readers,
            event.context,
        )
        local = event.destination in (self._name, "")
        state = ExportState.PENDING if local else ExportState.SENDING
        record = Sent(offer.key, event.total_bytes, state)
        deadline = books.now + event.deadline_s
        export = Export(event.connection, offer, event.destination, local, deadline, record)
        self._live[event.transfer_id, entry.rank] = export
        books.records.add_sent(record, now=books.now, context=event.context)
        if local:
            self.admit_pending()
        else:
            books.effects.append(StartSend(event.destination, offer))

    def slot_filled(self, event: SlotFilled) -> None:
        """Raises EngineError for a slot that is not the engine's, or bytes out of bounds."""
        books, slot = self._books, event.slot
        books.slots.check_leased(event.connection, (slot,))
        extents = checked_extents(event, books.slots.slot_bytes)
        export = self._of(event.connection, event.transfer_id)
        if export is None or export.over:
            books.slots.take_back(event.connection, (slot,))
            return
        before = export.handed.total
        new = export.take_new(extents)
        if not new:
            books.slots.take_back(event.connection, (slot,))
            return
        books.slots.queue(event.connection, slot, export.key)
        handed_bytes = export.handed.total - before
        if not export.local:
            books.counters.exported_bytes_link += handed_bytes
            self._sent.add(export.key, slot, new)
            books.effects.append(SendSlot(export.key, slot, new))
            return
        books.counters.exported_bytes_local += handed_bytes
        if export.record.state is ExportState.PENDING:
            export.waiting.append((slot, new))
        else:
            self._receptions.hand_over(export.key, slot, new)
            export.record.bytes_acknowledged = export.handed.total

    def described(self, connection: int, transfer_id: str, description: Description) -> None:
        """Worth keeping. Raises EngineError where it cannot be of that."""
        export = self._of(connection, transfer_id)
        if export is None or export.over or export.handed.total:
            return
        description.check(export.offer)
        if export.local:
            export.description = description
            self._receptions.describe(export.key, description)
        else:
            self._sent.describe(export.offer, description)

    def finished(self, event: ExportFinished) -> None:
        """What is missing now will never come."""
        export = self._engine_done(event.connection, event.transfer_id)
        if export is None:
            return
        record = export.record
        record.export_ended_at = self._books.now
        record.bytes_acknowledged_at_export_end = record.bytes_acknowledged
        missing = export.offer.total_bytes - export.handed.total
        if missing:
            self._cancel(export, f"export ended with {missing} bytes missing")

    def aborted(self, event: ExportAborted) -> None:
        """Too late for one that is complete."""
        export = self._engine_done(event.connection, event.transfer_id)
        if export is not None:
            self._cancel(export, event.reason)

    def connection_closed(self, connection: int) -> None:
        """An export that its engine had not ended can never be complete."""
        for export in [e for e in self._live.values() if e.connection == connection]:
            if not export.engine_done:
                export.engine_done = True
                self._cancel(export, "the exporting engine went away")
                self._forget_if_done(export)

    # what the link says

    def progressed(self, event: SendProgressed) -> None:
        """For the record, also when the export is over."""
        record = self._books.records.sent(event.key)
        if record is not None:
            record.bytes_acknowledged = event.acknowledged_bytes

    def sent(self, event: SendCompleted) -> None:
        """The receiver has everything."""
        self._books.effects.append(ForgetSend(event.key))
        if export := self._under_way(event.key):
            export.record.bytes_acknowledged = export.offer.total_bytes
            self._end(export, ExportStep.ALL_ACKNOWLEDGED, None)

    def send_failed(self, event: SendFailed) -> None:
        """The link has given it up, or was told to."""
        self._books.effects.append(ForgetSend(event.key))
        if export := self._under_way(event.key):
            self._end(export, ExportStep.ENDED, event.reason)

    def released(self, event: ExtentReleased) -> None:
        """The link reads one extent of a slot no more."""
        if self._sent.released(event.key, event.slot):
            self._leases.serve_soon()

    # what the pool says

    def admit_pending(self) -> None:
        """Give memory to local hand-offs that wait for it, in order."""
        for export in self._where(lambda e: e.record.state is ExportState.PENDING):
            try:
                refusal = self._receptions.admit_local(export.offer)
            except ArenaFull as error:
                if export.offer.readers:
                    return
                refusal = str(error)  # for the cache alone: it does not wait
            if refusal is not None:
                self._end(export, ExportStep.ENDED, refusal)
                continue
            export.record.state = advance(EXPORT, export.record.state, ExportStep.ADMITTED)
            if export.description is not None:
                self._receptions.describe(export.key, export.description)
            waiting, export.waiting = export.waiting, []
            for slot, extents in waiting:
                self._receptions.hand_over(export.key, slot, extents)
            export.record.bytes_acknowledged = export.handed.total

    def local_ended(self, key: TransferKey, reason: str | None) -> None:
        """The reception of a local hand-off is complete, or gone."""
        if export := self._under_way(key):
            step = ExportStep.ALL_ACKNOWLEDGED if reason is None else ExportStep.ENDED
            self._end(export, step, reason)

    def cancelled(self, transfer_id: str) -> None:
        """The gateway needs the transfer no more."""
        for export in self._where(lambda e: e.key.transfer_id == transfer_id):
            self._cancel(export, "cancelled")

    def transfer_ids(self) -> set[str]:
        """Of those that are not over."""
        return {export.key.transfer_id for export in self._where(lambda e: True)}

    def expire(self) -> None:
        """End what is past its deadline, and stalls."""
        for export in [e for e in self._live.values() if e.deadline <= self._books.now]:
            if export.over:
                export.engine_done = True  # it has been told and says nothing
                self._forget_if_done(export)
            else:
                self._cancel(export, "deadline passed")
        self._end_stall(self._leases.stalled_s())

    def check_integrity(self) -> None:
        """Raise InvariantError where exports and slots contradict each other."""
        for export in self._live.values():
            if export.over and (export.engine_done or export.waiting):
                raise InvariantError(f"{export.key} is over and kept, or keeps slots")
            if export.waiting and export.record.state is not ExportState.PENDING:
                raise InvariantError(f"{export.key} has memory and keeps slots waiting")
        waiting = sum(len(export.waiting) for export in self._live.values())
        if waiting + len(self._sent) > self._books.slots.counts().queued:
            raise InvariantError("slots that wait or are being sent are not queued")

    def _end_stall(self, stalled_s: float) -> None:
        """Stop what cannot move, so that what can gets memory."""
        if not stalled_s:
            return
        queued = self._books.slots.queued_transfers()
        stopped, why = exports_to_stop(self._where(lambda e: e.key in queued), stalled_s)
        if stopped:
            self._books.counters.stalls += 1
            self._leases.restart_stall_clock()
        for export in stopped:
            self._cancel(export, f"agent {export.destination} {why}")

    def _cancel(self, export: Export, reason: str) -> None:
        """End it here and, if it has begun, at its receiver."""
        if export.over:
            return
        self._end(export, ExportStep.ENDED, reason)
        if export.local:
            self._receptions.export_failed(export.key, reason)
        else:
            self._books.effects.append(CancelSend(export.key, reason))

    def _end(self, export: Export, step: ExportStep, reason: str | None) -> None:
        books, record, key = self._books, export.record, export.key
        record.state, record.reason = advance(EXPORT, record.state, step), reason
        if reason is None:
            books.counters.exports_complete += 1
            record.completed_at = books.now
        else:
            books.counters.exports_failed += 1
            books.report("export", key, reason, f" to={export.destination}")
            if not export.engine_done:
                books.effects.append(StopExport(export.connection, key.transfer_id, reason))
        if export.local and export.offer.context is not None:
            took_s = books.now - (export.deadline - export.offer.deadline_s)
            books.effects.append(HandedOver(export.offer, took_s, failed=reason is not None))
        for slot, _ in export.waiting:
            books.slots.release(slot, key)
        export.waiting = []
        self._sent.ended(key, complete=reason is None)
        self._forget_if_done(export)
        books.records.touch(key.transfer_id, now=books.now)
        books.announce(key.transfer_id)

    def _engine_done(self, connection: int, transfer_id: str) -> Export | None:
        export = self._of(connection, transfer_id)
        if export is not None:
            export.engine_done = True
            self._forget_if_done(export)
        return export

    def _forget_if_done(self, export: Export) -> None:
        place = (export.key.transfer_id, export.key.rank)
        if export.over and export.engine_done and self._live.get(place) is export:
            del self._live[place]

    def _of(self, connection: int, transfer_id: str) -> Export | None:
        """The export of this name, if it is the connection's."""
        export = self._live.get((transfer_id, self._books.engines.of(connection).rank))
        return export if export is not None and export.connection == connection else None

    def _under_way(self, key: TransferKey) -> Export | None:
        export = self._live.get((key.transfer_id, key.rank))
        return export if export is not None and export.key == key and not export.over else None

    def _where(self, wanted: Callable[[Export], bool]) -> list[Export]:
        """Exports that are not over, oldest first."""
        return [e for e in self._live.values() if not e.over and wanted(e)]

    def _why_not(self, event: ExportBegun, rank: int) -> str | None:
        if (event.transfer_id, rank) in self._live:
            return "this transfer is being exported already"
        if self._books.is_cancelled(event.transfer_id):
            return "cancelled"
        return malformed(event, self._books.longest_deadline_s)
