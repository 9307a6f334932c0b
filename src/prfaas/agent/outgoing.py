"""One rank's export, and what an engine may ask of it. Pure bookkeeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prfaas.agent.table import Sent
from prfaas.core.errors import PeerError
from prfaas.core.handoff import LONGEST_DEADLINE_S, TRANSFER_ID
from prfaas.core.ranges import RangeSet
from prfaas.engine_socket.messages import BeginExport, ExportSlot, ExportStopped
from prfaas.link.api import OutgoingTransfer, TransferKey, TransferOffer
from prfaas.pool.reception import Span


@dataclass(eq=False)
class Export:
    """One rank's transfer. ``parts_out`` counts, per queued slot, what the link still holds."""

    connection: int
    offer: TransferOffer
    destination: str
    stop: Callable[[ExportStopped], None]
    deadline: float
    record: Sent
    outgoing: OutgoingTransfer | None = None
    pending: list[tuple[int, list[Span]]] | None = None
    handed: RangeSet = field(default_factory=RangeSet)
    parts_out: dict[int, int] = field(default_factory=dict)
    engine_done: bool = False

    @property
    def key(self) -> TransferKey:
        return self.offer.key

    @property
    def over(self) -> bool:
        return self.record.state != "sending"

    @property
    def acknowledged_bytes(self) -> int:
        """Bytes the receiver has. Asks the link: never with the lock held."""
        if self.outgoing is not None:
            return self.outgoing.acknowledged_bytes
        return self.handed.total if self.pending is None else 0

    def take_new(self, spans: Sequence[Span]) -> list[Span]:
        """Record spans as handed over; returns the parts that were not before: what an engine
        hands over twice is sent once. Raises PeerError beyond the transfer's end."""
        if any(flat + length > self.offer.total_bytes for _, flat, length in spans):
            raise PeerError(f"transfer {self.key.transfer_id} ends at {self.offer.total_bytes}")
        return [
            (at + start - flat, start, end - start)
            for at, flat, length in spans
            for start, end in self.handed.add(flat, flat + length)
        ]


def malformed(message: BeginExport) -> str | None:
    """What is wrong with an export as such, or None."""
    if not TRANSFER_ID.match(message.transfer_id):
        return "a transfer id is 1 to 64 characters of A-Z a-z 0-9 _ -"
    if message.total_bytes <= 0:
        return "there is nothing to transfer"
    if not 0 < message.deadline_s <= LONGEST_DEADLINE_S:
        return f"deadline_s {message.deadline_s} is not in (0, {LONGEST_DEADLINE_S:g}]"
    return None


def checked_spans(message: ExportSlot, slot_bytes: int) -> list[Span]:
    """A slot's pieces, neighbours merged. Raises PeerError for one outside the slot."""
    first, end = message.slot * slot_bytes, (message.slot + 1) * slot_bytes
    spans: list[Span] = []
    for piece in message.pieces:
        at, flat, length = piece.arena_offset, piece.flat_offset, piece.length
        if length <= 0 or flat < 0 or not first <= at <= end - length:
            raise PeerError(f"piece {piece} lies outside slot {message.slot}")
        if spans and spans[-1][0] + spans[-1][2] == at and spans[-1][1] + spans[-1][2] == flat:
            spans[-1] = (spans[-1][0], spans[-1][1], spans[-1][2] + length)
        else:
            spans.append((at, flat, length))
    return spans
