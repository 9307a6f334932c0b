"""A stand-in for `AgentClient`: an arena in this process whose exports can be imported again."""

from __future__ import annotations

from concurrent.futures import Future

from prfaas.core.errors import CapacityError, EngineError
from prfaas.transfer.local.messages import BeginExport, ExportSlot, OpenImport, Piece


class LoopbackClient:
    def __init__(self, *, slot_bytes: int, slots: int) -> None:
        self.slot_bytes = slot_bytes
        self.arena = memoryview(bytearray(slot_bytes * slots))
        self.free = list(range(slots))
        self.begun: dict[str, BeginExport] = {}
        self.pieces: dict[str, list[Piece]] = {}
        self.finished: set[str] = set()
        self.aborted: dict[str, str] = {}
        self.stopped: dict[str, str] = {}
        self.closed: list[str] = []

    def lease(self, *, timeout_s: float) -> int:
        if not self.free:
            raise CapacityError("no free slot")
        return self.free.pop(0)

    def return_slot(self, slot: int) -> None:
        self.free.append(slot)

    def begin_export(self, message: BeginExport) -> None:
        self.begun[message.transfer_id] = message
        self.pieces[message.transfer_id] = []

    def export_slot(self, message: ExportSlot) -> None:
        self.pieces[message.transfer_id] += message.pieces

    def finish_export(self, transfer_id: str) -> None:
        self.finished.add(transfer_id)

    def abort_export(self, transfer_id: str, reason: str) -> None:
        self.aborted[transfer_id] = reason

    def stopped_reason(self, transfer_id: str) -> str | None:
        return self.stopped.get(transfer_id)

    def open_import(self, message: OpenImport) -> Future[tuple[Piece, ...]]:
        answer: Future[tuple[Piece, ...]] = Future()
        answer.set_running_or_notify_cancel()
        if message.transfer_id in self.finished:
            found = sorted(self.pieces[message.transfer_id], key=lambda p: p.flat_offset)
            answer.set_result(tuple(found))
        else:
            answer.set_exception(EngineError("unknown transfer"))
        return answer

    def close_import(self, transfer_id: str) -> None:
        self.closed.append(transfer_id)
