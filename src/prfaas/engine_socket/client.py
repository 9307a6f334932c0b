"""An engine rank's end of the agent's Unix socket: thread-safe, quick, and without vLLM or torch.

Theory of operation. A daemon thread (`SessionKeeper`) keeps one `Session` open and reads the
agent's messages. Callers (the engine's main thread) only touch memory under one lock and write
small messages, so no call waits for the agent, except `lease` when no slot is left: that is the
back-pressure of a slow line.

While exports are open the client keeps a stock of leased slots, as many as they are still to fill
where the arena is large: a chunk of a long prompt fills hundreds at once, and an agent that sends
them meanwhile takes milliseconds to answer. With the last export it gives them back.

When the agent goes away everything in flight fails cleanly: exports count as stopped, futures raise
`AgentUnavailable`, and the thread connects again with growing pauses. A new agent has a new arena;
memory of the old one stays mapped, and what was read from it stays valid, until the last view is
dropped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import msgspec

from prfaas.core.errors import CapacityError, PeerError
from prfaas.core.extents import Extent
from prfaas.core.layout import KvLayout
from prfaas.engine_socket.connection import AgentConnection
from prfaas.engine_socket.errors import AgentUnavailable, ExportUnwanted, RegistrationRefused
from prfaas.engine_socket.import_book import Resolution
from prfaas.engine_socket.keeper import SessionKeeper
from prfaas.engine_socket.lent import ArenaUser, Import, Slot
from prfaas.engine_socket.messages import (
    AbortExport,
    AgentMessage,
    BeginExport,
    ExportSlot,
    ExportStopped,
    FinishExport,
    ImportFailed,
    ImportReady,
    LeaseSlots,
    LoadFailed,
    LoadReady,
    OpenImport,
    RegisterEngine,
    ReturnSlots,
    SlotsLeased,
)
from prfaas.engine_socket.session import Session

_MOST_AHEAD = 256
_ARENAS_SHARE = 16
"""One rank holds at most 1/16 of the arena ahead, and no more than `_MOST_AHEAD` slots: others
export too."""


class _Export(msgspec.Struct):
    session: Session
    slots_left: int
    """How many it will still fill, about: they are not always full."""
    stopped: str | None = None


class AgentClient(AgentConnection):
    """Connects in the background at once; see `wait_connected`.

    Args:
        socket_path: the agent's Unix socket.
        engine: this engine's name in the deployment.
        layout: this rank's KV layout.
        stock_slots: slots kept leased ahead while exports are open, at least.
        arenas: is told of the arena of each connection.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        engine: str,
        layout: KvLayout,
        stock_slots: int = 16,
        arenas: ArenaUser | None = None,
    ) -> None:
        super().__init__(socket_path)
        self._arenas = arenas
        self._stock_slots = stock_slots
        self._exports: dict[str, _Export] = {}
        self._lease_waiters = 0
        register = RegisterEngine(engine=engine, layout=layout, pid=os.getpid())
        self._keeper = SessionKeeper(socket_path, register, self._changed, self)

    def close(self) -> None:
        """End the connection; everything in flight fails."""
        self._keeper.close()

    # exporting

    def begin_export(self, request: BeginExport) -> None:
        """Announce an export. Raises AgentUnavailable, ValueError if this transfer is already being
        exported."""
        transfer_id = request.transfer_id
        with self._changed:
            before = self._exports.get(transfer_id)
            if before is not None and before.session.lost is None:
                raise ValueError(f"transfer {transfer_id} is already being exported")
            session = self._live()
            slots = -(-request.total_bytes // session.slot_bytes)
            self._exports[transfer_id] = _Export(session, slots)
            self._send(session, request)
            self._refill(session)

    def lease(self, timeout_s: float, *, transfer_id: str | None = None) -> Slot:
        """A slot to fill. Blocks while none is free, at most ``timeout_s``, and no longer than
        the export of ``transfer_id`` is wanted.

        Raises CapacityError when none came free in time, ExportUnwanted when the export was
        stopped, AgentUnavailable when the agent is gone.
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            session = self._live()
            self._lease_waiters += 1
            try:
                while not session.stock:
                    if transfer_id is not None and (reason := self.stopped(transfer_id)):
                        raise ExportUnwanted(f"export stopped: {reason}")
                    self._refill(session)
                    left = end - time.monotonic()
                    if left <= 0:
                        raise CapacityError(f"no arena slot came free within {timeout_s:g} s")
                    self._changed.wait(left)
                    if session.lost is not None:
                        raise AgentUnavailable(session.lost)
            finally:
                self._lease_waiters -= 1
            if transfer_id is not None and (export := self._exports.get(transfer_id)):
                export.slots_left -= 1
            session.slots_out += 1
            slot = Slot(session, session.stock.popleft())
            self._refill(session)
            return slot

    def return_slot(self, slot: Slot) -> None:
        """Give a slot back unfilled."""
        with self._changed:
            self._hand_back(slot, ReturnSlots((slot.index,)))

    def export_slot(self, transfer_id: str, slot: Slot, extents: Sequence[Extent]) -> bool:
        """Hand over a filled slot with these extents, all of which lie in it.

        The slot is gone from the caller in every case. False if the export was stopped meanwhile:
        the bytes go nowhere and the caller should `abort_export`.
        """
        with self._changed:
            export = self._exports.get(transfer_id)
            if export is None or export.stopped is not None or export.session is not slot.session:
                self._hand_back(slot, ReturnSlots((slot.index,)))
                return False
            self._hand_back(slot, ExportSlot(transfer_id, slot.index, tuple(extents)))
            return True

    def stopped(self, transfer_id: str) -> str | None:
        """Why the agent wants no more of this export (also when it went away), None if it does."""
        export = self._exports.get(transfer_id)
        return "unknown transfer" if export is None else export.stopped

    def finish_export(self, transfer_id: str) -> str | None:
        """Every byte was handed over. None, or the reason why the export had been stopped."""
        return self._end_export(FinishExport(transfer_id))

    def abort_export(self, transfer_id: str, reason: str) -> None:
        """The export will not be completed; a no-op if there is none."""
        self._end_export(AbortExport(transfer_id, reason))

    # importing

    def open_import(self, request: OpenImport) -> Import:
        """Ask for a part of a transfer; ``.future`` resolves once all of its bytes are here.

        Several imports of one part may be open. Each must be closed with `close_import` when its
        bytes are copied or no longer wanted. Raises AgentUnavailable, ValueError if the part is
        open with other bounds.
        """
        with self._changed:
            session = self._live()
            ticket, must_send = session.imports.open(request)
            if must_send:
                self._send(session, request)
            extents = ticket.extents
        if extents is not None:
            ticket.resolve(extents)
        return Import(session, ticket)

    def close_import(self, opened: Import) -> None:
        """The bytes are no longer read. Idempotent; an unresolved future is cancelled."""
        with self._changed:
            session = opened.session
            message = session.imports.close(opened.ticket)
            if message is not None and session.lost is None:
                self._send(session, message)
            session.close_if_unused()
        opened.future.cancel()

    # with the lock held

    def _wake(self) -> None:
        self._keeper.wake()

    def _hand_back(self, slot: Slot, message: ExportSlot | ReturnSlots) -> None:
        slot.session.slots_out -= 1
        if slot.session.lost is None:
            self._send(slot.session, message)
        slot.session.close_if_unused()

    def _end_export(self, message: FinishExport | AbortExport) -> str | None:
        with self._changed:
            export = self._exports.pop(message.transfer_id, None)
            if export is None:
                return "not being exported"
            if export.session.lost is None:
                self._send(export.session, message)
                self._trim(export.session)
            return export.stopped

    def _refill(self, session: Session) -> None:
        """Ask for slots when the stock is half used; one question at a time."""
        wanted = self._wanted(session)
        missing = wanted - len(session.stock)
        if not session.lease_asked and 2 * missing >= wanted:
            session.lease_asked = True
            self._send(session, LeaseSlots(missing))

    def _wanted(self, session: Session) -> int:
        open_ones = (e for e in self._exports.values() if e.session is session and not e.stopped)
        left = sum(max(0, export.slots_left) for export in open_ones)
        most = min(_MOST_AHEAD, session.slot_count // _ARENAS_SHARE)
        return max(self._stock_slots, min(left, most))

    def _trim(self, session: Session) -> None:
        """Nobody needs slots: other engines may."""
        wanted = any(export.session is session for export in self._exports.values())
        if session.stock and not wanted and not self._lease_waiters:
            self._send(session, ReturnSlots(tuple(session.stock)))
            session.stock.clear()

    # on the keeper's thread

    def registered(self, session: Session) -> None:
        """See `keeper.Listener`."""
        arenas = self._arenas
        if arenas is not None:
            session.when_unused = lambda: arenas.arena_unused(session.arena)
            arenas.arena_opened(session.arena)
        with self._changed:
            self._session, self._refusal = session, None
            self._changed.notify_all()

    def absent(self, error: Exception) -> None:
        """See `keeper.Listener`."""
        with self._changed:
            self._problem = str(error)
            self._refusal = str(error) if isinstance(error, RegistrationRefused) else None
            self._changed.notify_all()

    def received(self, session: Session, message: AgentMessage) -> None:
        """See `keeper.Listener`."""
        resolutions: list[Resolution] = []
        with self._changed:
            if isinstance(message, SlotsLeased):
                if any(not 0 <= slot < session.slot_count for slot in message.slots):
                    raise PeerError("agent lends slots that it does not have")
                session.lease_asked = False
                session.stock.extend(message.slots)
                self._changed.notify_all()
                self._trim(session)
            elif isinstance(message, ExportStopped):
                export = self._exports.get(message.transfer_id)
                if export is not None:
                    export.stopped = message.reason
                    self._changed.notify_all()
            elif isinstance(message, ImportReady | ImportFailed):
                resolutions = session.imports.answered(message)
            elif isinstance(message, LoadReady | LoadFailed):
                resolutions = session.loads.answered(message)
            else:
                raise PeerError(f"agent sent an unexpected {type(message).__name__}")
        for resolve in resolutions:
            resolve()

    def lost(self, session: Session, reason: str) -> None:
        """See `keeper.Listener`."""
        with self._changed:
            self._session, self._problem = None, reason
            for export in self._exports.values():
                export.stopped = export.stopped or reason
            error = AgentUnavailable(reason)
            resolutions = session.imports.connection_lost(error)
            resolutions += session.loads.connection_lost(error)
            session.lose(reason)
            self._changed.notify_all()
        for resolve in resolutions:
            resolve()
