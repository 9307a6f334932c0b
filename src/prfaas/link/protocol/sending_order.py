"""Which bytes go next: the transfers that have something to send, and whose turn it is.

The most urgent priority first (lower number); among equals the one that has been served least, so
equals share the line evenly by bytes. Who comes, or comes back, starts level with the others: what
it did not ask for earlier is not owed to it, and what another had alone is not held against that
one. What the receiver returned goes before what was never sent.
"""

from __future__ import annotations

from prfaas.link.protocol.sending_records import Chunk, SendingTransfer

_MOST_LEVELS = 64
"""Of priorities, those that were served last: whoever sends chooses its own."""


class SendingOrder:
    """Transfers with bytes to send; a chunk is cut when it is asked for."""

    def __init__(self) -> None:
        self._waiting: dict[int, SendingTransfer] = {}
        self._level: dict[int, float] = {}
        """By priority: how much the transfer whose turn it last was had been served then."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, transfer: SendingTransfer) -> bool:
        return transfer.handle in self._waiting

    @property
    def queued_bytes(self) -> int:
        """Accepted by the peer, and not yet given to a connection."""
        return sum(transfer.unsent_bytes for transfer in self._waiting.values())

    def join(self, transfer: SendingTransfer) -> None:
        """A transfer may have something to send."""
        if transfer.unsent_bytes and transfer not in self:
            level = self._level.get(transfer.offer.priority, 0.0)
            transfer.served_bytes = max(transfer.served_bytes, level)
            self._waiting[transfer.handle] = transfer

    def leave(self, transfer: SendingTransfer) -> None:
        """It is over, or has nothing to send any more."""
        self._waiting.pop(transfer.handle, None)

    def next_chunk(self, chunk_bytes: int) -> tuple[Chunk, bool]:
        """A chunk of the transfer whose turn it is (there must be one), and whether it was sent
        before; a new one has at most ``chunk_bytes``."""
        transfer = min(
            self._waiting.values(), key=lambda t: (t.offer.priority, t.served_bytes, t.handle)
        )
        again = bool(transfer.returned)
        chunk = transfer.returned.popleft() if again else _cut(transfer, chunk_bytes)
        self._level.pop(transfer.offer.priority, None)
        self._level[transfer.offer.priority] = transfer.served_bytes
        if len(self._level) > _MOST_LEVELS:
            del self._level[next(iter(self._level))]
        transfer.served_bytes += len(chunk.view)
        transfer.unsent_bytes -= len(chunk.view)
        if not transfer.unsent_bytes:
            self.leave(transfer)
        return chunk, again


def _cut(transfer: SendingTransfer, chunk_bytes: int) -> Chunk:
    segment = transfer.segments[0]
    start = segment.cut
    view = segment.view[start : start + chunk_bytes]
    segment.cut += len(view)
    if segment.cut == len(segment.view):
        transfer.segments.popleft()
    chunk = Chunk(transfer, segment, segment.offset + start, view)
    transfer.chunks[chunk.offset] = chunk
    return chunk
