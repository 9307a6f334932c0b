"""An in-memory KV link for tests: no threads, no clock; nothing moves until ``pump()``.

Theory of operation. A `MemoryNetwork` joins `MemoryLink` endpoints by name. ``send`` queues an
offer, ``add`` queues chunks; ``pump`` delivers them in order, at most as many as asked. Faults
are set on the network: ``hold`` a direction, ``refuse`` by the sink's own answer, ``fail`` a
transfer. Callbacks run inside ``pump``, ``cancel`` and ``close``, on the caller's thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prfaas.core.errors import LinkError
from prfaas.link.api import (
    LinkState,
    Reception,
    Refusal,
    TransferKey,
    TransferOffer,
    TransferSink,
)


class MemoryNetwork:
    """Endpoints by name, and the faults between them."""

    def __init__(self, *, chunk_bytes: int = 64 * 1024) -> None:
        self.chunk_bytes = chunk_bytes
        self.links: dict[str, MemoryLink] = {}
        self.held: set[tuple[str, str]] = set()

    def link(self, name: str, sink: TransferSink) -> MemoryLink:
        """A new endpoint called ``name`` that delivers to ``sink``."""
        self.links[name] = MemoryLink(self, name, sink)
        return self.links[name]

    def hold(self, source: str, target: str) -> None:
        """Deliver nothing in this direction until ``release``."""
        self.held.add((source, target))

    def release(self, source: str, target: str) -> None:
        self.held.discard((source, target))

    def pump(self, chunks: int | None = None) -> int:
        """Deliver up to ``chunks`` chunks (None: all there are); returns how many were."""
        delivered = 0
        for link in list(self.links.values()):
            for transfer in list(link.outgoing):
                while chunks is None or delivered < chunks:
                    if (link.name, transfer.peer) in self.held or not transfer.step():
                        break
                    delivered += 1
        return delivered

    def fail(self, transfer_id: str, reason: str) -> None:
        """Both sides lose the transfer, as when its deadline passes."""
        for link in self.links.values():
            for transfer in list(link.outgoing):
                if transfer.offer.key.transfer_id == transfer_id:
                    transfer.end(reason)


@dataclass
class _Queued:
    offset: int
    view: memoryview
    on_released: Callable[[], None]
    sent: int = 0


@dataclass(eq=False)
class MemoryTransfer:
    """The sender's handle (`OutgoingTransfer`)."""

    link: MemoryLink
    peer: str
    offer: TransferOffer
    on_complete: Callable[[], None]
    on_failed: Callable[[str], None]
    acknowledged_bytes: int = 0
    reception: Reception | None = None
    refused: bool = False
    queue: deque[_Queued] = field(default_factory=deque)

    def add(self, flat_offset: int, view: memoryview, on_released: Callable[[], None]) -> None:
        if self not in self.link.outgoing:
            on_released()
            return
        self.queue.append(_Queued(flat_offset, view.cast("B"), on_released))

    def cancel(self, reason: str) -> None:
        self.end(reason)

    def step(self) -> bool:
        """Deliver the offer or one chunk; False when there is nothing to do now."""
        sink = self.link.network.links[self.peer].sink
        if self.reception is None:
            answer = sink.offered(self.link.name, self.offer)
            if isinstance(answer, Refusal):
                if not answer.retry:
                    self.refused = True
                    self.end(answer.reason)
                return False
            self.reception = answer
        if not self.queue:
            return False
        self._deliver(self.reception, sink)
        return True

    def _deliver(self, reception: Reception, sink: TransferSink) -> None:
        head = self.queue[0]
        offset = head.offset + head.sent
        length = min(self.link.network.chunk_bytes, len(head.view) - head.sent)
        taken = head.sent
        for view in reception.views(offset, length):
            view[:] = head.view[taken : taken + len(view)]
            taken += len(view)
        head.sent += length
        if head.sent == len(head.view):
            self.queue.popleft()
            head.on_released()
        sink.stored(self.offer.key, offset, length)
        self.acknowledged_bytes += length
        self.link.acknowledged_bytes += length
        if self.acknowledged_bytes == self.offer.total_bytes:
            self.link.outgoing.remove(self)
            sink.completed(self.offer.key)
            self.on_complete()

    def end(self, reason: str) -> None:
        """Fail on both sides; nothing happens if the transfer is over already."""
        if self not in self.link.outgoing:
            return
        self.link.outgoing.remove(self)
        while self.queue:
            self.queue.popleft().on_released()
        if self.reception is not None:
            self.reception = None
            self.link.network.links[self.peer].sink.failed(self.offer.key, reason)
        elif not self.refused:
            self.link.network.links[self.peer].sink.withdrawn(self.offer.key, reason)
        self.on_failed(reason)


class MemoryLink:
    """One endpoint (`Link`)."""

    def __init__(self, network: MemoryNetwork, name: str, sink: TransferSink) -> None:
        self.network, self.name, self.sink = network, name, sink
        self.outgoing: list[MemoryTransfer] = []
        self.acknowledged_bytes = 0
        self.keys_sent: list[TransferKey] = []

    def send(
        self,
        peer: str,
        offer: TransferOffer,
        *,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> MemoryTransfer:
        if peer not in self.network.links:
            raise LinkError(f"no peer {peer!r}; known: {', '.join(sorted(self.network.links))}")
        transfer = MemoryTransfer(self, peer, offer, on_complete, on_failed)
        self.outgoing.append(transfer)
        self.keys_sent.append(offer.key)
        return transfer

    def abandon(self, key: TransferKey, reason: str) -> None:
        for link in self.network.links.values():
            for transfer in list(link.outgoing):
                if transfer.peer == self.name and transfer.offer.key == key:
                    transfer.end(reason)

    def states(self) -> Sequence[LinkState]:
        return [self._state(peer) for peer in self.network.links if peer != self.name]

    def _state(self, peer: str) -> LinkState:
        queued = sum(
            len(item.view) - item.sent for t in self.outgoing if t.peer == peer for item in t.queue
        )
        return LinkState(
            peer=peer,
            at_s=0.0,
            connections=1,
            goodput_bytes_per_s=0.0,
            limit_bytes_per_s=None,
            utilisation=0.0,
            rtt_s=0.0,
            min_rtt_s=0.0,
            retransmits=0,
            queued_bytes=queued,
            congestion=0.0,
            acknowledged_bytes_total=self.acknowledged_bytes,
            resent_bytes_total=0,
        )

    def close(self) -> None:
        for transfer in list(self.outgoing):
            transfer.end("link closed")
