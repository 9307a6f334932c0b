"""What a `SendingEnd` knows of each transfer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from prfaas.core.errors import InvariantError
from prfaas.link.api import TransferOffer
from prfaas.link.protocol.frames import Kind
from prfaas.link.protocol.lifecycle import SendingState


@dataclass(eq=False, slots=True)
class Segment:
    """Memory a producer has added. ``writers``: connections that are writing from it."""

    offset: int
    view: memoryview
    on_released: Callable[[], None]
    unacknowledged: int
    cut: int = 0
    writers: int = 0


@dataclass(eq=False, slots=True)
class Chunk:
    """A range that was given to a connection once. ``carrier``: the connection that carries it,
    or was asked about it; None while it waits to be sent again. ``sent_via``: the last that
    carried its bytes."""

    transfer: SendingTransfer
    segment: Segment
    offset: int
    view: memoryview
    digest: int | None = None
    carrier: int | None = None
    sent_via: int = 0


@dataclass(eq=False, slots=True)
class SendingTransfer:
    """One transfer to a peer, from its offer to its end."""

    handle: int
    offer: TransferOffer
    deadline_at: float
    on_complete: Callable[[], None]
    on_failed: Callable[[str], None]
    state: SendingState = SendingState.OFFERING
    segments: deque[Segment] = field(default_factory=deque)
    returned: deque[Chunk] = field(default_factory=deque)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    """By offset: cut and not yet acknowledged."""
    unsent_bytes: int = 0
    """Of ``segments`` and ``returned``: what waits for a connection."""
    acknowledged_bytes: int = 0
    served_bytes: float = 0.0
    offer_carrier: int | None = None
    reoffer_at: float = 0.0
    reoffer_pause_s: float = 0.05

    def check_integrity(self) -> None:
        """Raise InvariantError where the books contradict each other."""
        for chunk in self.chunks.values():
            if (chunk in self.returned) != (chunk.carrier is None):
                raise InvariantError("a chunk is both waiting and in flight, or neither")
        unsent = sum(len(segment.view) - segment.cut for segment in self.segments)
        unsent += sum(len(chunk.view) for chunk in self.returned)
        if unsent != self.unsent_bytes:
            raise InvariantError(f"{unsent} bytes wait, counted as {self.unsent_bytes}")


@dataclass(frozen=True, slots=True)
class ControlFrame:
    """A control frame to be sent over any connection, again if that one is lost."""

    kind: Kind
    transfer: SendingTransfer
    chunk: Chunk | None = None
    reason: str = ""


@dataclass(slots=True)
class SendingCounters:
    """Totals since the start."""

    bytes_acknowledged: int = 0
    bytes_resent: int = 0
    chunks_returned: int = 0
    transfers_completed: int = 0
    transfers_failed: int = 0
    connections_lost: int = 0
