"""Engines that read received transfers. Runs on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from prfaas.agent.receptions import Incoming, Receptions
from prfaas.agent.registry import EngineEntry
from prfaas.agent.state import AgentState
from prfaas.engine_socket.messages import ImportFailed, ImportReady, OpenImport, Piece

log = logging.getLogger(__name__)

UNKNOWN_WAIT_S = 1.0
"""How long an import waits for a transfer nobody has announced. The gateway submits a request when
its transfer is complete, so this only covers a race."""

Answer = Callable[[ImportReady | ImportFailed], None]


class _Waiting(NamedTuple):
    connection: int
    entry: EngineEntry
    request: OpenImport
    answer: Answer
    unknown_until: float


class Imports:
    """Every OpenImport is answered once, in order per connection and transfer."""

    def __init__(self, state: AgentState, receptions: Receptions) -> None:
        self._state, self._receptions = state, receptions
        self._waiting: dict[str, list[_Waiting]] = {}
        self._open: dict[tuple[int, str], Incoming] = {}
        state.changed.append(self._changed)

    @property
    def open_count(self) -> int:
        return len(self._open)

    def open(
        self, connection: int, entry: EngineEntry, request: OpenImport, answer: Answer
    ) -> None:
        """Answer when the transfer is all here, or will never be."""
        until = self._state.monotonic() + UNKNOWN_WAIT_S
        waiting = _Waiting(connection, entry, request, answer, until)
        self._waiting.setdefault(request.transfer_id, []).append(waiting)
        self._changed(request.transfer_id)

    def close(self, connection: int, transfer_id: str) -> None:
        """The rank reads no more (or waits no more)."""
        for waiting in self._take(transfer_id, lambda w: w.connection == connection):
            waiting.answer(ImportFailed(transfer_id, "closed"))
        incoming = self._open.pop((connection, transfer_id), None)
        if incoming is not None:
            with self._state.lock:
                self._receptions.unread(incoming)

    def connection_gone(self, connection: int) -> None:
        for transfer_id in list(self._waiting):
            self._take(transfer_id, lambda w: w.connection == connection)
        for owner, transfer_id in list(self._open):
            if owner == connection:
                self.close(connection, transfer_id)

    def expire(self, now: float) -> None:
        """Fail imports of transfers that nobody has announced for too long."""
        for transfer_id, waiting in list(self._waiting.items()):
            if any(w.unknown_until <= now for w in waiting):
                self._changed(transfer_id)

    def _take(self, transfer_id: str, wanted: Callable[[_Waiting], bool]) -> list[_Waiting]:
        every = self._waiting.pop(transfer_id, [])
        rest = [w for w in every if not wanted(w)]
        if rest:
            self._waiting[transfer_id] = rest
        return [w for w in every if wanted(w)]

    def _changed(self, transfer_id: str) -> None:
        answered = set()
        for waiting in self._waiting.get(transfer_id, []):
            outcome = self._outcome(waiting)
            if outcome is None:
                continue
            answered.add(id(waiting))
            if isinstance(outcome, ImportFailed):
                self._state.counters.imports["failed"] += 1
                log.info("import failed transfer=%s engine=%s: %s",
                         transfer_id, waiting.entry.engine, outcome.reason)  # fmt: skip
            else:
                self._state.counters.imports["ready"] += 1
            waiting.answer(outcome)
        self._take(transfer_id, lambda w: id(w) in answered)

    def _outcome(self, waiting: _Waiting) -> ImportReady | ImportFailed | None:
        """The answer, or None while there is none yet."""
        transfer_id, rank = waiting.request.transfer_id, waiting.entry.layout.tp_rank
        with self._state.lock:
            incoming = self._receptions.find(transfer_id, rank)
            if incoming is None:
                return self._outcome_without_memory(waiting)
            difference = _difference(waiting, incoming)
            if difference is not None:
                return ImportFailed(transfer_id, difference)
            if incoming.record.state != "complete":
                return None
            place = (waiting.connection, transfer_id)
            if place not in self._open:
                self._open[place] = incoming
                self._receptions.read(incoming)
            return ImportReady(transfer_id, tuple(Piece(*s) for s in incoming.memory.spans()))

    def _outcome_without_memory(self, waiting: _Waiting) -> ImportFailed | None:
        transfer_id = waiting.request.transfer_id
        record = self._state.table.received(transfer_id, waiting.entry.layout.tp_rank)
        if record is not None and record.state == "failed":
            return ImportFailed(transfer_id, record.reason or "failed")
        if self._state.table.is_cancelled(transfer_id):
            return ImportFailed(transfer_id, "cancelled")
        if self._state.monotonic() >= waiting.unknown_until:
            return ImportFailed(transfer_id, "no such transfer here")
        return None


def _difference(waiting: _Waiting, incoming: Incoming) -> str | None:
    """Why these bytes are not those the engine means, or None."""
    request, offer = waiting.request, incoming.offer
    if waiting.entry.fingerprint != offer.layout_fingerprint:
        return "the sender's KV layout differs from this engine's"
    for what in ("from_token", "to_token", "total_bytes"):
        asked, offered = getattr(request, what), getattr(offer, what)
        if asked != offered:
            return f"{what} differs: the engine asks for {asked}, the sender offered {offered}"
    return None
