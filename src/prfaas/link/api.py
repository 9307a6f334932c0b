"""What an agent and the KV link ask of each other: the seam between ``agent`` and ``link.tcp``.

A *transfer* is a byte object of known size, addressed flat. The sender adds ranges of it in any
order while they are produced; the receiver gives memory for each range before it is read from the
socket, and alone says when the transfer is complete. All callbacks come from link threads: they
must be quick and must not raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import msgspec

from prfaas.core.handoff import (
    Bytes,
    DeadlineS,
    Epoch,
    Fingerprint,
    Number,
    Priority,
    Rank,
    Readers,
    RequestContext,
    Tokens,
    TransferId,
)

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
TransferBytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 46)]
"""No arena is larger. What was handed over is summed for as long as a gateway lives."""


class TransferKey(msgspec.Struct, frozen=True, array_like=True, order=True):
    """``transfer_id`` as the gateway chose it, the tensor-parallel rank, and the sender's epoch for
    it: late bytes of a dead transfer never match a living one."""

    transfer_id: TransferId
    rank: Rank
    epoch: Epoch


class TransferOffer(msgspec.Struct, frozen=True):
    """Announces a transfer before its first byte. Bounds hold for what comes off the network."""

    key: TransferKey
    layout_fingerprint: Fingerprint
    """Of the sender's KV layout; a receiver with another refuses."""
    from_token: Tokens
    to_token: Tokens
    """The KV of tokens [from_token, to_token) of the prompt is what moves."""
    total_bytes: Bytes
    deadline_s: DeadlineS
    """Seconds from the offer on; after that both ends give the transfer up."""
    priority: Priority = 0
    """A lower number goes first."""
    prompt_digest: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Of the prompt it was computed from (`core.prompt_digest`). An earlier release sends none, and
    no engine reads what it sends."""
    readers: Readers = ()
    """The engines that may read it."""
    context: RequestContext | None = None
    """For logs and traces. An earlier release sends none."""


class OutgoingTransfer(Protocol):
    """The sender's handle. Every method is thread-safe and returns at once."""

    def add(self, flat_offset: int, view: memoryview, on_released: Callable[[], None]) -> None:
        """Send ``view`` as the bytes at ``flat_offset``. ``on_released`` is called exactly once,
        when the link needs the memory no longer (acknowledged, cancelled or failed).

        Ranges of one transfer must not overlap. Raises CallerError for one outside of it.
        """

    def cancel(self, reason: str) -> None:
        """Stop; frees what is queued within one chunk and tells the receiver."""

    @property
    def acknowledged_bytes(self) -> int:
        """Bytes the receiver has verified and stored, counted once."""


class Reception(Protocol):
    """The receiver's memory for one transfer it has accepted."""

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        """Writable memory for the range, in order; together exactly ``length`` bytes."""


class Refusal(msgspec.Struct, frozen=True):
    """The receiver will not take the transfer. ``retry`` says whether memory may free up soon:
    the sender then offers again until the deadline."""

    reason: str
    retry: bool = False


class TransferSink(Protocol):
    """The receiving agent, as the link sees it."""

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        """Give memory for a transfer of agent ``peer``, or say why not. Called once per offer."""

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None:
        """A range arrived and its checksum is right (called once per range)."""

    def completed(self, key: TransferKey) -> None:
        """Every byte of [0, total_bytes) is stored and verified."""

    def failed(self, key: TransferKey, reason: str) -> None:
        """Cancelled by the sender, past its deadline, or given up: memory may be reclaimed;
        the link has dropped every view of it before this call."""

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        """The sender gave up a transfer before this end had accepted it."""


class LinkState(msgspec.Struct, frozen=True):
    """One direction of a link as its sender sees it now, every 100 ms (seconds, bytes)."""

    peer: str
    """The agent at the other end."""
    at_s: Number
    """When, in seconds since 1970."""
    connections: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
    """Open now; 0: the link is down."""
    goodput_bytes_per_s: Number
    """Acknowledged bytes, smoothed over about half a second."""
    limit_bytes_per_s: Number | None
    """What it is paced to; None: as fast as the line goes."""
    utilisation: Number
    """Goodput as a share (0..1) of the limit; without one, of the largest goodput seen lately."""
    rtt_s: Number
    """Median over the connections."""
    min_rtt_s: Number
    """The least of the last minute."""
    retransmits: Count
    """TCP segments sent again since the start."""
    queued_bytes: Bytes
    """Accepted by the peer, and not yet given to a connection."""
    congestion: Number
    """Smoothed 0..1: 0 clear, 1 saturated with queues building. Rises before queues build."""
    acknowledged_bytes_total: Bytes
    """Since the start, each byte once."""
    resent_bytes_total: Bytes
    """Since the start: payload that was given to a connection again."""


class LinkStates(msgspec.Struct, frozen=True):
    """What an agent answers to ``GET /links``, and a line of ``GET /links/events``: one state a
    peer."""

    links: list[LinkState] = []


class MeasuredLine(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent answers to ``POST /links/PEER/measure`` (seconds, bytes): the test data that
    crossed, and beside it what all that crossed came to at the end. RTTs are under that load,
    ``min_rtt_s`` is the least of the last minute."""

    peer: str
    goodput_bytes_per_s: float
    all_bytes_per_s: float
    limit_bytes_per_s: float | None
    connections: int
    rtt_s: float
    min_rtt_s: float


class Link(Protocol):
    """The KV link endpoint of an agent (one listening port, many peers)."""

    def send(
        self,
        peer: str,
        offer: TransferOffer,
        *,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> OutgoingTransfer:
        """Announce a transfer to ``peer``. Exactly one of the callbacks is called, once.
        Raises LinkError if the peer is unknown."""

    def abandon(self, key: TransferKey, reason: str) -> None:
        """Stop receiving a transfer. ``failed`` of the sink follows once its memory is let go;
        unknown keys are ignored."""

    def states(self) -> Sequence[LinkState]:
        """One for each peer this agent sends to."""

    def close(self) -> None:
        """Stop all threads and close all sockets; every open transfer fails first."""
