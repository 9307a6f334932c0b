"""The state machine behind an agent: who owns which byte of its arena, and what becomes of every
transfer. The agent drives it in real time, tests on a clock of their own; it knows of neither.

Theory of operation. ``handle(event, now=...)`` returns the effects that follow, in order. Engines
lease slots, fill them and hand them over; an export sends them to another agent through the KV link
or hands them to a reception beside it; a reception gives memory to what arrives; imports read what
is complete. The parts (`leases`, `exports`, `receptions`, `imports`) share one set of `Books` and
act on it directly; where one's doing concerns another that does not know it, the books keep a note,
and `Pool` follows the notes up before it returns: an event is dealt with entirely or, where it
raises EngineError, not at all.

Guarantees, property-tested over any interleaving: a slot has one owner; an import gets one answer;
an export has one end; memory is never given to one while the link, a copy or an import touches it;
when everybody has let go, every slot is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from prfaas.core.errors import InvariantError
from prfaas.core.gateway_sessions import Standing, session_of
from prfaas.core.handoff import LONGEST_DEADLINE_S
from prfaas.pool.awaited_copies import AwaitedCopies
from prfaas.pool.books import Books, PoolSnapshot
from prfaas.pool.cache import Cache
from prfaas.pool.copies import Copies
from prfaas.pool.description import Description
from prfaas.pool.disk import Disk
from prfaas.pool.effects import AnnounceCached, AnyEffect, ReportLapse
from prfaas.pool.engines import Engines
from prfaas.pool.events import (
    AnyEvent,
    ConnectionClosed,
    CopyAwaited,
    CopyRequested,
    EngineConnected,
    EngineDropped,
    ExportAborted,
    ExportBegun,
    ExportFinished,
    ExtentReleased,
    GatewayEnded,
    GatewayRenewed,
    ImportClosed,
    ImportOpened,
    LeasesCameDue,
    LoadClosed,
    LoadOpened,
    NamesChanged,
    OfferReceived,
    OfferWithdrawn,
    PrefixPinned,
    PrefixUnpinned,
    RangeStored,
    ReceptionFailed,
    Reconfigured,
    SendCompleted,
    SendFailed,
    SendProgressed,
    SlotCopied,
    SlotFilled,
    SlotsRequested,
    SlotsReturned,
    TimePassed,
    TransferCancelled,
    TransferDescribed,
    TransferReceived,
)
from prfaas.pool.exports import Exports
from prfaas.pool.imports import Imports
from prfaas.pool.leases import Leases
from prfaas.pool.loads import Loads
from prfaas.pool.pins import Pins
from prfaas.pool.receptions import Receptions
from prfaas.pool.records import TransferRecords, TransferView
from prfaas.pool.sent_slots import SentSlots
from prfaas.pool.slots import Slots
from prfaas.pool.spill import Spill


class Pool:
    """See the module. Not thread-safe, no I/O.

    Args:
        name: this agent's own: what is exported there is a local hand-off.
        slot_bytes, slot_count, export_slots: see `Slots`.
        engines: names the deployment gives this agent.
        first_epoch: must be greater than any epoch of an earlier life of this agent.
        cache_slots: how many slots may hold cached prefixes; 0: transfers that are over are free.
        disk_bytes: how much of what is cached may lie on disk; 0: nothing does.
        longest_deadline_s: neither an engine nor a peer may hold memory here longer.
    """

    def __init__(
        self,
        name: str,
        *,
        slot_bytes: int,
        slot_count: int,
        export_slots: int,
        engines: frozenset[str],
        first_epoch: int = 0,
        cache_slots: int = 0,
        disk_bytes: int = 0,
        longest_deadline_s: float = LONGEST_DEADLINE_S,
    ) -> None:
        self._books = Books(
            slots=Slots(slot_bytes=slot_bytes, slot_count=slot_count, export_slots=export_slots),
            engines=Engines(engines),
            records=TransferRecords(),
            longest_deadline_s=longest_deadline_s,
            first_epoch=first_epoch,
        )
        self._leases = Leases(self._books)
        self.disk = Disk(self._books, most_bytes=disk_bytes)
        self._cache = Cache(self._books, most_slots=cache_slots, disk=self.disk)
        self._awaited = AwaitedCopies(self._books)
        self._receptions = Receptions(self._books, self._cache, self._awaited)
        self._exports = Exports(
            self._books,
            self._receptions,
            self._leases,
            SentSlots(self._books, self._cache),
            name=name,
        )
        at_once = (slot_count - export_slots) // 2
        tiers = self._books, self._cache, self.disk
        self._spill = Spill(*tiers, most_slots=at_once)
        self._copies = Copies(*tiers, self._spill, most_slots=at_once)
        self._loads = Loads(*tiers, self._spill)
        most_pinned = min(cache_slots // 2, (slot_count - export_slots) // 3)
        self._pins = Pins(self._books, self._cache, most_slots=most_pinned)
        self._imports = Imports(self._books, self._receptions)
        self._actions = self._action_of_each()

    def _action_of_each(self) -> dict[type, Callable[[Any], object]]:
        """Which part takes which event."""
        return {
            Reconfigured: self._books.reconfigured,
            EngineConnected: self._books.engines.connected,
            EngineDropped: self._engine_dropped,
            ConnectionClosed: self._connection_closed,
            SlotsRequested: self._leases.requested,
            SlotsReturned: self._leases.returned,
            ExportBegun: self._exports.begun,
            SlotFilled: self._exports.slot_filled,
            ExportFinished: self._exports.finished,
            ExportAborted: self._exports.aborted,
            ImportOpened: self._imports.opened,
            ImportClosed: self._imports.closed,
            TransferDescribed: self._described,
            LoadOpened: self._loads.opened,
            LoadClosed: self._loads.closed,
            OfferReceived: self._receptions.offered,
            RangeStored: self._receptions.stored,
            TransferReceived: self._receptions.received,
            ReceptionFailed: self._receptions.failed,
            OfferWithdrawn: self._receptions.withdrawn,
            CopyRequested: self._copies.requested,
            CopyAwaited: self._awaited.awaited,
            PrefixPinned: self._pins.pinned,
            PrefixUnpinned: self._pins.unpinned,
            SendProgressed: lambda event: self._sender(event).progressed(event),
            SendCompleted: lambda event: self._sender(event).sent(event),
            SendFailed: lambda event: self._sender(event).send_failed(event),
            ExtentReleased: lambda event: self._sender(event).released(event),
            LeasesCameDue: self._leases.came_due,
            NamesChanged: self._names_changed,
            SlotCopied: self._receptions.copied,
            TransferCancelled: lambda event: self._cancel(event.transfer_id),
            GatewayRenewed: self._gateway_renewed,
            GatewayEnded: lambda event: self._end_session(event.session_id),
            TimePassed: self._time_passed,
            **self._spill.actions(),
        }

    def handle(self, event: AnyEvent, *, now: float) -> list[AnyEffect]:
        """Take one event at time ``now`` (seconds, never less than before); return what to do.

        Raises EngineError for what an engine may not say, CapacityError for a gateway too many;
        then nothing has changed.
        """
        books = self._books
        if now < books.now:
            raise InvariantError(f"time ran backwards: {now} after {books.now}")
        books.now = now
        self._actions[type(event)](event)
        while books.unsettled:
            self._follow_up()
        if self._leases.waiting:
            self._leases.serve()
        if self._spill.due:
            self._spill.write_next()
        return books.take_effects() if books.effects else []

    def snapshot(self) -> PoolSnapshot:
        """Everything that is counted, as it stands."""
        books = self._books
        return PoolSnapshot(
            slots=books.slots.counts(),
            slot_bytes=books.slots.slot_bytes,
            reception_slots=books.slots.slot_count - books.slots.export_slots,
            lease_waiters=self._leases.waiting,
            engines=books.engines.entries(),
            exports=len(self._exports),
            receptions=len(self._receptions),
            imports=self._imports.open_count,
            cache_slots=self._cache.most_slots,
            cached=self._cache.views(),
            pinned=tuple(sorted(self._pins.names())),
            pinned_slots=self._pins.slots,
            most_pinned_slots=self._pins.most_slots,
            disk_bytes=self.disk.most_bytes,
            disk_used_bytes=self.disk.used_bytes,
            counters=msgspec.structs.replace(books.counters),
        )

    def transfer(
        self, transfer_id: str, *, ranks: int, unix_at_zero: float = 0.0
    ) -> tuple[TransferView, bool]:
        """See `TransferRecords.view`."""
        return self._books.records.view(transfer_id, ranks=ranks, unix_at_zero=unix_at_zero)

    def cached(self) -> list[AnnounceCached]:
        """All that loads would find, as it was announced."""
        return [entry.announcement for entry in self._cache] + self.disk.announcements()

    def standing(self, session_id: str, *, now: float) -> Standing:
        """See `Sessions.standing`."""
        return self._books.sessions.standing(session_id, now=now)

    def check_integrity(self) -> None:
        """Raise InvariantError where the bookkeeping contradicts itself."""
        for part in (self._books.slots, self._receptions, self._exports, self._imports,
                     self._cache, self._copies, self._pins, self.disk, self._spill):  # fmt: skip
            part.check_integrity()
        readers = self._loads, self._copies, self._pins, self._spill
        self._cache.check_readers(entry for part in readers for entry in part.reading())

    def _sender(
        self, event: SendProgressed | SendCompleted | SendFailed | ExtentReleased
    ) -> Exports | Copies:
        return self._copies if self._copies.owns(event.key) else self._exports

    def _follow_up(self) -> None:
        """What the last step of one part means for the others."""
        books = self._books
        if books.local_ends:
            self._exports.local_ended(*books.local_ends.pop(0))
        elif books.read_back:
            came = books.read_back.pop(0)
            self._loads.read_back(*came)
            self._copies.read_back(*came)
        elif books.memory_freed:
            books.memory_freed = False
            self._exports.admit_pending()
        elif books.changed:
            self._imports.look_again(books.changed.pop(0))
        else:
            books.unsettled = False

    def _engine_dropped(self, event: EngineDropped) -> None:
        self._leases.waits_no_more(event.connection)
        self._imports.waits_no_more(event.connection)

    def _connection_closed(self, event: ConnectionClosed) -> None:
        for part in (self._exports, self._imports, self._loads, self._leases):
            part.connection_closed(event.connection)
        self._books.engines.closed(event.connection)

    def _described(self, event: TransferDescribed) -> None:
        layout = self._books.engines.of(event.connection).layout
        description = Description(event.prefix, layout, self._books.naming)
        self._exports.described(event.connection, event.transfer_id, description)
        if self._imports.reads(event.connection, event.transfer_id):
            self._receptions.described(event.transfer_id, description)

    def _names_changed(self, event: NamesChanged) -> None:
        """What is under way goes on, and is not cached when it is over."""
        self._books.naming += 1
        self._pins.forget()
        self._copies.forget("the cache key has been exchanged")
        for part in (self._awaited, self.disk, self._cache):
            part.forget()

    def _cancel(self, transfer_id: str) -> None:
        self._books.records.cancel(transfer_id, now=self._books.now)
        self._exports.cancelled(transfer_id)
        self._copies.cancelled(transfer_id)
        self._awaited.cancelled(transfer_id)
        self._receptions.cancelled(transfer_id)
        self._books.announce(transfer_id)

    def _gateway_renewed(self, event: GatewayRenewed) -> None:
        self._books.sessions.renew(event.session_id, event.renewal, now=self._books.now)

    def _end_session(self, session_id: str) -> int:
        """Cancel what its gateway has here; returns how many transfers."""
        if not self._books.sessions.end(session_id):
            return 0
        live = self._exports.transfer_ids() | self._copies.transfer_ids()
        live |= self._books.slots.holding()
        its = sorted(found for found in live if session_of(found) == session_id)
        for transfer_id in its:
            self._cancel(transfer_id)
        return len(its)

    def _time_passed(self, event: TimePassed) -> None:
        for session_id in self._books.sessions.lapsed(now=self._books.now):
            lapse = ReportLapse(session_id, self._end_session(session_id))
            self._books.effects.append(lapse)
        for part in (self._receptions, self._exports, self._copies, self._awaited, self._loads,
                     self._imports, self._spill):  # fmt: skip
            part.expire()
        self._books.records.forget_old(now=self._books.now)
