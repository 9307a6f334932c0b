"""What a `ReceivingDesk` knows of each transfer and session, and the events it emits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from prfaas.core.ranges import RangeSet
from prfaas.transfer.api import Reception, TransferKey, TransferOffer
from prfaas.transfer.protocol.frames import Header
from prfaas.transfer.protocol.lifecycle import Incoming

_OUTCOMES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Stored:
    key: TransferKey
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Completed:
    key: TransferKey


@dataclass(frozen=True, slots=True)
class Failed:
    key: TransferKey
    reason: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Cancelled by its sender before it was accepted."""

    key: TransferKey
    reason: str


Event = Stored | Completed | Failed | Withdrawn


class Line(Protocol):
    """A connection, as the desk sees it."""

    def reply(self, frame: bytes) -> None:
        """Queue a frame to the sender (and wake the connection's driver)."""

    def sever(self) -> None:
        """Close soon: its sender believes it lost. ``closed`` must follow."""


@dataclass(eq=False, slots=True)
class IncomingTransfer:
    session: Session
    handle: int
    offer: TransferOffer
    deadline_at: float
    offered_via: Line
    state: Incoming = Incoming.ASKING
    reception: Reception | None = None
    stored: RangeSet = field(default_factory=RangeSet)
    claims: dict[int, int] = field(default_factory=dict)
    """Start to end of every range being received."""
    reason: str = ""

    def claimed(self, start: int, end: int) -> bool:
        return any(a < end and start < b for a, b in self.claims.items())


@dataclass(eq=False, slots=True)
class Session:
    peer: str
    number: int
    lines: dict[int, Line] = field(default_factory=dict)
    transfers: dict[int, IncomingTransfer] = field(default_factory=dict)
    outcomes: OrderedDict[int, str | None] = field(default_factory=OrderedDict)
    """How transfers that are over ended: None for complete, else the reason."""
    deferred: dict[int, list[tuple[Line, Header]]] = field(default_factory=dict)
    """Queries that wait for a lost connection's reader to be gone."""
    abandoned_at: float | None = None

    def remember(self, handle: int, outcome: str | None) -> None:
        """How a transfer ended; the oldest are forgotten."""
        self.outcomes[handle] = outcome
        while len(self.outcomes) > _OUTCOMES_KEPT:
            self.outcomes.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write [offset, offset + length) of a transfer, held by one connection."""

    transfer: IncomingTransfer
    offset: int
    length: int
    reception: Reception


@dataclass(slots=True)
class ReceiverCounters:
    """Totals since the start; ``bytes_stored`` counts every byte once."""

    bytes_stored: int = 0
    bytes_duplicate: int = 0
    chunks_corrupt: int = 0
    transfers_completed: int = 0
    transfers_failed: int = 0
    transfers_refused: int = 0
