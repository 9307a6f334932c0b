"""The sending side: slots that engines filled, on their way to an agent (perhaps this one).

Runs on the event loop; only ``_released``, ``_completed`` and ``_failed`` are called by link
threads. An export's life:

    pending -> open -> complete
        |        |-> failed     (engine, link, deadline, gateway, stall)
        |-> failed

*Pending* is a local hand-off for which no memory is free yet; its filled slots wait. Remote ones
are never pending here: the link offers them until the receiver has room.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from prfaas.agent.leases import Leases
from prfaas.agent.outgoing import Export, checked_spans, malformed
from prfaas.agent.receptions import Receptions
from prfaas.agent.registry import EngineEntry
from prfaas.agent.state import AgentState
from prfaas.agent.table import Sent, State
from prfaas.core.errors import CapacityError, LinkError, PeerError
from prfaas.engine_socket.messages import BeginExport, ExportSlot, ExportStopped
from prfaas.link.api import Link, OutgoingTransfer, TransferKey, TransferOffer
from prfaas.pool.reception import Span
from prfaas.pool.slots import ArenaFull

log = logging.getLogger(__name__)

STALL_S = 2.0
"""An engine that waits for a slot this long while none comes free ends the stall (`pool.slots`)."""
PATIENCE = 3
"""So much longer it takes where every receiver has taken something: a slow line is no stall."""


class Exports:
    """See the module's docstring."""

    def __init__(
        self, state: AgentState, receptions: Receptions, leases: Leases, link: Link
    ) -> None:
        self._state, self._receptions, self._leases = state, receptions, leases
        self._link = link
        self._live: dict[tuple[str, int], Export] = {}
        # Greater after every restart, so late bytes of an earlier life match nothing.
        self._next_epoch = time.time_ns() // 1_000_000 << 20
        receptions.memory_freed.append(self._admit_pending)

    def __len__(self) -> int:
        return len(self._live)

    # what engines ask

    def begin(
        self,
        connection: int,
        entry: EngineEntry,
        message: BeginExport,
        stop: Callable[[ExportStopped], None],
    ) -> None:
        """``stop`` is called, at most once, when the engine should export no more of it."""
        place = (message.transfer_id, entry.layout.tp_rank)
        refusal = self._why_not(message, place)
        if refusal is not None:
            stop(ExportStopped(message.transfer_id, refusal))
            return
        self._next_epoch += 1
        offer = TransferOffer(
            TransferKey(*place, self._next_epoch),
            entry.fingerprint,
            message.from_token,
            message.to_token,
            message.total_bytes,
            message.deadline_s,
            message.priority,
        )
        now = self._state.monotonic()
        export = Export(
            connection, offer, message.destination, stop, now + message.deadline_s,
            Sent(message.total_bytes, lambda: export.acknowledged_bytes),
        )  # fmt: skip
        with self._state.lock:
            self._live[place] = export
            self._state.table.add_sent(*place, export.record, now=now)
        if message.destination == self._state.name:
            export.pending = []
            self._admit_pending()
        else:
            self._begin_remote(export)

    def slot(self, connection: int, rank: int, message: ExportSlot) -> None:
        """A filled slot. Raises PeerError for one that is not the engine's or is out of bounds."""
        spans = checked_spans(message, self._state.pool.slot_bytes)
        completed = False
        with self._state.lock:
            export = self._live.get((message.transfer_id, rank))
            if export is not None and (export.over or export.connection != connection):
                export = None
            new = export.take_new(spans) if export is not None else []
            try:
                self._state.pool.queue(connection, message.slot)
            except KeyError as error:
                raise PeerError(str(error)) from error
            if export is None or not new:
                self._state.pool.release(message.slot)
            elif export.pending is not None:
                export.pending.append((message.slot, new))
            elif export.outgoing is None:
                completed = self._receptions.hand_over(export.key, message.slot, new)
            else:
                export.parts_out[message.slot] = len(new)
        if export is not None and export.outgoing is not None:
            self._send(export, export.outgoing, message.slot, new)
            self._state.counters.exported_bytes["link"] += sum(length for _, _, length in new)
        else:
            self._state.counters.exported_bytes["local"] += sum(length for _, _, length in new)
        if completed and export is not None:
            self._completed(export)
        if self._leases.waiting:
            self._leases.serve()

    def finish(self, connection: int, rank: int, transfer_id: str) -> None:
        """The engine has handed over everything, it says."""
        export = self._engine_done(connection, rank, transfer_id)
        if export is None:
            return
        export.record.export_ended_at = self._state.unix_time()
        export.record.bytes_acknowledged_at_export_end = export.record.acknowledged()
        missing = export.offer.total_bytes - export.handed.total
        if missing:
            self._cancel(export, f"export ended with {missing} bytes missing")

    def abort(self, connection: int, rank: int, transfer_id: str, reason: str) -> None:
        export = self._engine_done(connection, rank, transfer_id)
        if export is not None:
            self._cancel(export, reason)

    def connection_gone(self, connection: int) -> None:
        """An export that its engine had not finished can never be complete."""
        with self._state.lock:
            of_it = [e for e in self._live.values() if e.connection == connection]
        for export in of_it:
            if not export.engine_done:
                self._engine_done(connection, export.key.rank, export.key.transfer_id)
                self._cancel(export, "the exporting engine went away")

    # what others ask

    def cancel(self, transfer_id: str) -> None:
        """The gateway needs the transfer no more."""
        for export in self._where(lambda e: e.key.transfer_id == transfer_id):
            self._cancel(export, "cancelled")

    def expire(self, now: float) -> None:
        """End what is past its deadline, and stalls."""
        for export in self._where(lambda e: e.deadline <= now):
            self._cancel(export, "deadline passed")
        with self._state.lock:
            for export in [e for e in self._live.values() if e.over and e.deadline <= now]:
                export.engine_done = True  # it has been told and says nothing
                self._forget_if_done(export)
        stalled_s = self._leases.stalled_s(now)
        if stalled_s >= STALL_S:
            self._end_stall(stalled_s)

    def _end_stall(self, stalled_s: float) -> None:
        """Stop what cannot move, so that what can gets memory: of the exports whose receiver took
        nothing yet, the younger half of those that go where the youngest goes. If there are none,
        the youngest export, but only later."""
        holding = self._where(lambda e: bool(e.parts_out or e.pending))
        untouched = [e for e in holding if not e.record.acknowledged()]
        if untouched:
            alike = [e for e in untouched if e.destination == untouched[-1].destination]
            self._stop(alike[len(alike) // 2 :], "took nothing while memory ran out")
        elif holding and stalled_s >= PATIENCE * STALL_S:
            self._stop(holding[-1:], f"let no memory come free for {stalled_s:.0f} s")

    def _stop(self, exports: list[Export], what: str) -> None:
        self._state.counters.stalls += 1
        self._leases.restart_stall_clock()
        for export in exports:
            self._cancel(export, f"agent {export.destination} {what}")

    def _where(self, wanted: Callable[[Export], bool]) -> list[Export]:
        """Exports that are not over, oldest first."""
        with self._state.lock:
            return [e for e in self._live.values() if not e.over and wanted(e)]

    # remote

    def _begin_remote(self, export: Export) -> None:
        try:
            export.outgoing = self._link.send(
                export.destination,
                export.offer,
                on_complete=partial(self._completed, export),
                on_failed=partial(self._failed, export),
            )
        except LinkError as error:
            self._failed(export, str(error))

    def _send(
        self, export: Export, outgoing: OutgoingTransfer, slot: int, spans: list[Span]
    ) -> None:
        view = self._state.arena.view
        released = partial(self._released, export, slot)
        for at, flat, length in spans:
            outgoing.add(flat, view[at : at + length], released)

    def _released(self, export: Export, slot: int) -> None:
        with self._state.lock:
            export.parts_out[slot] -= 1
            if export.parts_out[slot]:
                return
            del export.parts_out[slot]
            self._state.pool.release(slot)
        # A lease joins the line before it looks for a slot, so none is missed here.
        if self._leases.waiting:
            self._state.post(self._leases.serve)

    # local

    def _admit_pending(self) -> None:
        """Give memory to local hand-offs that wait for it, in order."""
        for export in self._where(lambda e: e.pending is not None):
            try:
                with self._state.lock:
                    self._receptions.admit_local(export.offer, partial(self._failed, export))
                    waiting, export.pending = export.pending or [], None
                    for slot, spans in waiting:
                        self._receptions.hand_over(export.key, slot, spans)
                    complete = export.handed.total == export.offer.total_bytes
            except ArenaFull:
                return
            except (CapacityError, PeerError) as error:
                self._failed(export, str(error))
                continue
            self._state.announce(export.key.transfer_id)
            if complete:
                self._completed(export)
            self._leases.serve()

    # ends

    def _cancel(self, export: Export, reason: str) -> None:
        if export.over:
            return
        self._failed(export, reason)
        if export.outgoing is not None:
            export.outgoing.cancel(reason)
        else:
            with self._state.lock:
                self._receptions.fail_local(export.key, reason)
            self._state.announce(export.key.transfer_id)

    def _completed(self, export: Export) -> None:
        self._end(export, "complete", None)

    def _failed(self, export: Export, reason: str) -> None:
        self._end(export, "failed", reason)

    def _end(self, export: Export, state: State, reason: str | None) -> None:
        transfer_id = export.key.transfer_id
        with self._state.lock:
            if export.over:
                return
            export.record.state, export.record.reason = state, reason
            export.record.completed_at = self._state.unix_time() if reason is None else None
            self._state.counters.exports[state] += 1
            self._state.table.touch(transfer_id, now=self._state.monotonic())
            for slot, _ in export.pending or []:
                self._state.pool.release(slot)
            export.pending = None
            self._forget_if_done(export)
            tell = reason is not None and not export.engine_done
        if reason is not None:
            log.info("export failed transfer=%s to=%s: %s", export.key, export.destination, reason)
        if tell and reason is not None:
            self._state.post(partial(export.stop, ExportStopped(transfer_id, reason)))
        self._state.post(self._leases.serve)
        self._state.announce(transfer_id)

    def _engine_done(self, connection: int, rank: int, transfer_id: str) -> Export | None:
        with self._state.lock:
            export = self._live.get((transfer_id, rank))
            if export is None or export.connection != connection:
                return None
            export.engine_done = True
            self._forget_if_done(export)
            return export

    def _forget_if_done(self, export: Export) -> None:
        place = (export.key.transfer_id, export.key.rank)
        if export.over and export.engine_done and self._live.get(place) is export:
            del self._live[place]

    # checks

    def _why_not(self, message: BeginExport, place: tuple[str, int]) -> str | None:
        if place in self._live:
            return "this transfer is being exported already"
        if self._state.table.is_cancelled(message.transfer_id):
            return "cancelled"
        return malformed(message)
