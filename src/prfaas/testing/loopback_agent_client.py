"""A stand-in for `AgentClient`: an arena in this process whose exports can be imported again.

Several ranks of a sender share one arena: each has a client that is ``beside`` the first, with a
rank of its own, and a reader's client finds the parts of all of them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace

from prfaas.core.errors import CapacityError
from prfaas.core.extents import Extent
from prfaas.engine_socket.errors import TransferUnusable
from prfaas.engine_socket.import_book import Extents
from prfaas.engine_socket.messages import BeginExport, OpenImport


@dataclass
class LoopbackSlot:
    index: int
    offset: int
    view: memoryview
    session: SimpleNamespace


@dataclass
class LoopbackImport:
    session: SimpleNamespace
    future: Future[Extents] = field(default_factory=Future)


class LoopbackAgentClient:
    def __init__(self, *, slot_bytes: int, slots: int, rank: int = 0) -> None:
        self.slot_bytes = slot_bytes
        self.session = SimpleNamespace(arena=memoryview(bytearray(slot_bytes * slots)))
        self.free = list(range(slots))
        self.totals: dict[str, int] = {}
        self.extents: dict[str, list[Extent]] = {}
        self.finished: set[str] = set()
        self.aborted: dict[str, str] = {}
        self.stop_reasons: dict[str, str] = {}
        self.closed = 0
        self._parts = {rank: self}

    def beside(self, rank: int) -> LoopbackAgentClient:
        """The client of another rank on the same arena."""
        other = LoopbackAgentClient(slot_bytes=self.slot_bytes, slots=0)
        other.session, other.free, other._parts = self.session, self.free, self._parts
        self._parts[rank] = other
        return other

    def lease(self, timeout_s: float, *, transfer_id: str) -> LoopbackSlot:
        if not self.free:
            raise CapacityError("no free slot")
        index = self.free.pop(0)
        start = index * self.slot_bytes
        view = self.session.arena[start : start + self.slot_bytes]
        return LoopbackSlot(index, start, view, self.session)

    def return_slot(self, slot: LoopbackSlot) -> None:
        self.free.append(slot.index)

    def begin_export(self, request: BeginExport) -> None:
        self.totals[request.transfer_id] = request.total_bytes
        self.extents[request.transfer_id] = []

    def export_slot(self, transfer_id: str, slot: LoopbackSlot, extents: list[Extent]) -> bool:
        self.extents[transfer_id] += extents
        return True

    def finish_export(self, transfer_id: str) -> None:
        self.finished.add(transfer_id)

    def abort_export(self, transfer_id: str, reason: str) -> None:
        self.aborted[transfer_id] = reason

    def stopped(self, transfer_id: str) -> str | None:
        return self.stop_reasons.get(transfer_id)

    def open_import(self, request: OpenImport) -> LoopbackImport:
        opened = LoopbackImport(self.session)
        sender = self._parts.get(request.part, self)
        extents = sorted(sender.extents.get(request.transfer_id, []))
        position = 0
        for extent in extents:
            if extent.flat_offset != position:
                break
            position = extent.flat_end
        if request.transfer_id in sender.finished and position == request.total_bytes:
            opened.future.set_result(tuple(extents))
        else:
            opened.future.set_exception(
                TransferUnusable(f"not all of {request.transfer_id} is here")
            )
        return opened

    def close_import(self, opened: LoopbackImport) -> None:
        self.closed += 1
