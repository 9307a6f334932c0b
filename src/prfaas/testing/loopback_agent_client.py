"""A stand-in for `AgentClient`: an arena in this process whose exports can be imported again."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace

from prfaas.core.errors import CapacityError
from prfaas.engine_socket.client import ImportedPieces, TransferUnusable


@dataclass
class LoopbackSlot:
    index: int
    view: memoryview
    session: SimpleNamespace


@dataclass
class LoopbackImport:
    session: SimpleNamespace
    future: Future[ImportedPieces] = field(default_factory=Future)


class LoopbackAgentClient:
    def __init__(self, *, slot_bytes: int, slots: int) -> None:
        self.slot_bytes = slot_bytes
        self.session = SimpleNamespace(arena=memoryview(bytearray(slot_bytes * slots)))
        self.free = list(range(slots))
        self.totals: dict[str, int] = {}
        self.pieces: dict[str, list[tuple[int, memoryview]]] = {}
        self.finished: set[str] = set()
        self.aborted: dict[str, str] = {}
        self.stop_reasons: dict[str, str] = {}
        self.closed = 0

    def lease(self, timeout_s: float, *, transfer_id: str) -> LoopbackSlot:
        if not self.free:
            raise CapacityError("no free slot")
        index = self.free.pop(0)
        start = index * self.slot_bytes
        return LoopbackSlot(
            index, self.session.arena[start : start + self.slot_bytes], self.session
        )

    def return_slot(self, slot: LoopbackSlot) -> None:
        self.free.append(slot.index)

    def begin_export(self, transfer_id: str, *, total_bytes: int, **_: object) -> None:
        self.totals[transfer_id] = total_bytes
        self.pieces[transfer_id] = []

    def export_slot(
        self, transfer_id: str, slot: LoopbackSlot, ranges: list[tuple[int, int, int]]
    ) -> bool:
        self.pieces[transfer_id] += [
            (flat, slot.view[at : at + length]) for at, flat, length in ranges
        ]
        return True

    def finish_export(self, transfer_id: str) -> None:
        self.finished.add(transfer_id)

    def abort_export(self, transfer_id: str, reason: str) -> None:
        self.aborted[transfer_id] = reason

    def stopped(self, transfer_id: str) -> str | None:
        return self.stop_reasons.get(transfer_id)

    def open_import(self, transfer_id: str, *, total_bytes: int, **_: object) -> LoopbackImport:
        opened = LoopbackImport(self.session)
        pieces = sorted(self.pieces.get(transfer_id, []), key=lambda piece: piece[0])
        position = 0
        for start, view in pieces:
            if start != position:
                break
            position += len(view)
        if transfer_id in self.finished and position == total_bytes:
            opened.future.set_result(tuple(pieces))
        else:
            opened.future.set_exception(TransferUnusable(f"not all of {transfer_id} is here"))
        return opened

    def close_import(self, opened: LoopbackImport) -> None:
        self.closed += 1
