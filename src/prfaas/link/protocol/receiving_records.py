"""What a `ReceivingEnd` knows of each transfer and session, and the events it emits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from prfaas.core.errors import PeerError
from prfaas.core.ranges import RangeSet
from prfaas.link.api import Reception, TransferKey, TransferOffer
from prfaas.link.protocol.frames import Header
from prfaas.link.protocol.lifecycle import ReceivingState

_REMEMBERED = 4096
"""Transfers that are over. Late frames come within seconds, in which far fewer end."""
_REASON_CHARS = 200
"""Of why one has ended: a sender writes the reason itself."""
_MOST_SESSIONS = 8
"""Of one sender: a machine has one, a link test another, and those that were given up last for
seconds."""
_MAX_RANGES = 65536
"""Gaps one transfer may have at a time: bounds what a hostile order of chunks can cost."""
_MOST_RANGES = 2 * _MAX_RANGES
"""Of all transfers of a session: two thousand have sixty each."""
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Stored:
    """A range is in memory and its checksum is right."""

    offer: TransferOffer
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Completed:
    """Every byte of a transfer is stored."""

    offer: TransferOffer


@dataclass(frozen=True, slots=True)
class Failed:
    """A transfer that was accepted has ended early; nobody writes its memory any more."""

    offer: TransferOffer
    reason: str


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Cancelled by its sender before it was accepted."""

    key: TransferKey
    reason: str


Event = Stored | Completed | Failed | Withdrawn


class Connection(Protocol):
    """What the end may do with a connection."""

    def reply(self, frame: bytes) -> None:
        """Queue a frame to the sender (and wake the driver)."""

    def sever(self) -> None:
        """Close soon: its sender believes it lost. ``closed`` must follow."""


@dataclass(eq=False, slots=True)
class ReceivingTransfer:
    """One transfer that a sender has offered."""

    session: Session
    handle: int
    offer: TransferOffer
    deadline_at: float
    offered_via: Connection
    state: ReceivingState = ReceivingState.ASKING
    reception: Reception | None = None
    stored: RangeSet = field(default_factory=RangeSet)
    claims: dict[int, int] = field(default_factory=dict)
    """Start to end of every range being received."""
    reason: str = ""

    def claimed(self, start: int, end: int) -> bool:
        """Is any byte of [start, end) being received?"""
        return any(a < end and start < b for a, b in self.claims.items())

    def store(self, start: int, end: int) -> None:
        """[start, end) is in memory."""
        before = len(self.stored)
        self.stored.add(start, end)
        self.session.ranges += len(self.stored) - before

    @property
    def has_most_gaps(self) -> bool:
        """Whether no more are remembered, of it or of its session."""
        own = len(self.stored) + len(self.claims)
        return own >= _MAX_RANGES or self.session.ranges >= _MOST_RANGES


class Recent(OrderedDict[Key, Value]):
    """Remembers the latest `_REMEMBERED` entries and forgets the oldest."""

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        while len(self) > _REMEMBERED:
            self.popitem(last=False)


@dataclass(eq=False, slots=True)
class Session:
    """One life of a sending agent: it restarts with a new number."""

    peer: str
    number: int
    connections: dict[int, Connection] = field(default_factory=dict)
    transfers: dict[int, ReceivingTransfer] = field(default_factory=dict)
    outcomes: Recent[int, str | None] = field(default_factory=Recent)
    """How transfers that are over ended: None for complete, else the reason."""
    deferred: dict[int, list[tuple[Connection, Header]]] = field(default_factory=dict)
    """Queries that wait for a lost connection's reader to be gone."""
    abandoned_at: float | None = None
    ranges: int = 0
    """Stored ones of all its transfers."""

    def forget(self, transfer: ReceivingTransfer, outcome: str | None) -> None:
        """It is over."""
        transfer.reception = None
        del self.transfers[transfer.handle]
        self.ranges -= len(transfer.stored)
        self.remember(transfer.handle, outcome)

    def remember(self, handle: int, outcome: str | None) -> None:
        """How it ended."""
        self.outcomes[handle] = outcome and outcome[:_REASON_CHARS]


class Sessions(dict[tuple[str, int], Session]):
    """Sessions by peer and number. What one peer has is bounded, so that it costs others
    nothing."""

    def of(self, peer: str, number: int) -> Session:
        """A new one, or one that is known. Raises PeerError where the peer has too many."""
        known = self.get((peer, number))
        if known is None:
            if sum(owner == peer for owner, _ in self) >= _MOST_SESSIONS:
                raise PeerError(f"{peer!r} has {_MOST_SESSIONS} sessions here already")
            known = self[peer, number] = Session(peer, number)
        return known

    def transfers_of(self, peer: str) -> int:
        """How many live."""
        return sum(len(session.transfers) for session in self.values() if session.peer == peer)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write [offset, offset + length) of a transfer, held by one connection."""

    transfer: ReceivingTransfer
    offset: int
    length: int
    reception: Reception


@dataclass(slots=True)
class ReceivingCounters:
    """Totals since the start; ``bytes_stored`` counts every byte once."""

    bytes_stored: int = 0
    bytes_duplicate: int = 0
    chunks_corrupt: int = 0
    transfers_completed: int = 0
    transfers_failed: int = 0
    transfers_refused: int = 0
