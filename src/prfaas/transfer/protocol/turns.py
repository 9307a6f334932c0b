"""Which bytes go next: the transfers that have something to send, and whose turn it is.

The most urgent priority first (lower number); among equals the one that has been served least, so
equals share the line evenly by bytes. What the receiver returned goes before what was never sent.
"""

from __future__ import annotations

from prfaas.transfer.protocol.outgoing import Chunk, OutgoingTransfer


class Turns:
    """Transfers with bytes to send; a chunk is cut when it is asked for."""

    def __init__(self) -> None:
        self._waiting: dict[int, OutgoingTransfer] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __contains__(self, transfer: OutgoingTransfer) -> bool:
        return transfer.handle in self._waiting

    @property
    def queued_bytes(self) -> int:
        """Added and not yet given to a connection."""
        return sum(
            sum(len(s.view) - s.cut for s in t.segments) + sum(len(c.view) for c in t.returned)
            for t in self._waiting.values()
        )

    def join(self, transfer: OutgoingTransfer) -> None:
        """A transfer may have something to send."""
        if transfer in self or not (transfer.segments or transfer.returned):
            return
        # A newcomer shares from now on; what it did not ask for earlier is not owed to it.
        rivals = [
            t.served_bytes
            for t in self._waiting.values()
            if t.offer.priority == transfer.offer.priority
        ]
        transfer.served_bytes = max([transfer.served_bytes, min(rivals, default=0.0)])
        self._waiting[transfer.handle] = transfer

    def leave(self, transfer: OutgoingTransfer) -> None:
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
        transfer.served_bytes += len(chunk.view)
        if not transfer.segments and not transfer.returned:
            self.leave(transfer)
        return chunk, again


def _cut(transfer: OutgoingTransfer, chunk_bytes: int) -> Chunk:
    segment = transfer.segments[0]
    start = segment.cut
    view = segment.view[start : start + chunk_bytes]
    segment.cut += len(view)
    if segment.cut == len(segment.view):
        transfer.segments.popleft()
    chunk = Chunk(transfer, segment, segment.offset + start, view)
    transfer.chunks[chunk.offset] = chunk
    return chunk
