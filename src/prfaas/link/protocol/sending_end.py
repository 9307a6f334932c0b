"""The sending end of the KV link to one peer: what to send next, and what became of it.

Theory of operation. Producers add ranges of a transfer (segments) in any order. A connection that
can take more asks ``take``: it gets control frames first, then a chunk of the transfer whose turn
it is (`turns`), so urgent transfers overtake at the next chunk. A chunk is *in flight* on its
connection until the receiver speaks about it: ACK ends it, NACK puts it back. When a connection is
lost the receiver is asked, over another one, what arrived of each chunk in flight there; only what
it lacks is sent again.

A transfer is complete when the receiver has acknowledged every byte. Its memory is released
segment by segment, as soon as nothing of the segment is unacknowledged or being written.
The end takes no lock and calls nobody: the driver serialises calls and runs ``events``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from prfaas.core.errors import InvariantError, PeerError
from prfaas.core.transitions import advance
from prfaas.link.api import TransferOffer
from prfaas.link.protocol.control_frames import ControlFrames
from prfaas.link.protocol.frames import Header, Kind, control, pack, reason
from prfaas.link.protocol.lifecycle import SENDING_TRANSITIONS, SendingState, SendingStep
from prfaas.link.protocol.pacing import Pacer
from prfaas.link.protocol.sending_order import SendingOrder
from prfaas.link.protocol.sending_records import (
    Chunk,
    ControlFrame,
    Segment,
    SendingCounters,
    SendingTransfer,
)

_REOFFER_MAX_S = 1.0
"""Pauses between offers double up to this: memory at the receiver frees within a second or two."""


class SendingEnd:
    """All transfers to one peer."""

    def __init__(self, *, rate_bytes_per_s: float | None = None) -> None:
        self.pacer = Pacer(rate_bytes_per_s)
        self.counters = SendingCounters()
        self.events: deque[Callable[[], None]] = deque()
        self._transfers: dict[int, SendingTransfer] = {}
        self._order = SendingOrder()
        self._control_frames = ControlFrames(self._transfers.__contains__)
        self._carried: dict[int, set[Chunk]] = {}
        self._next_handle = 1

    @property
    def queued_bytes(self) -> int:
        """Accepted by the peer, and not yet given to a connection."""
        return self._order.queued_bytes

    @property
    def sendable(self) -> bool:
        """Is there anything a connection could send (as far as the rate allows)?"""
        return bool(self._order or self._control_frames)

    def carries(self, carrier: int) -> bool:
        """Is anything in flight on this connection?"""
        return bool(self._carried.get(carrier))

    @property
    def busy(self) -> bool:
        """Is there anything a connection could be needed for?"""
        return bool(self._transfers) or self._control_frames.busy

    def open(
        self,
        offer: TransferOffer,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
        *,
        now: float,
    ) -> SendingTransfer:
        """Announce a transfer."""
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        transfer = SendingTransfer(handle, offer, now + offer.deadline_s, on_complete, on_failed)
        self._transfers[handle] = transfer
        self._control_frames.append(ControlFrame(Kind.OFFER, transfer))
        return transfer

    def add(
        self,
        transfer: SendingTransfer,
        offset: int,
        view: memoryview,
        on_released: Callable[[], None],
    ) -> None:
        """Queue bytes of a transfer; released at once if it is over or the view is empty."""
        over = transfer.state in (SendingState.COMPLETE, SendingState.FAILED)
        if over or not len(view):
            self.events.append(on_released)
            return
        transfer.segments.append(Segment(offset, view, on_released, len(view)))
        transfer.unsent_bytes += len(view)
        if transfer.state is SendingState.SENDING:
            self._order.join(transfer)

    def cancel(self, transfer: SendingTransfer, why: str) -> None:
        """Stop a transfer and tell the receiver; nothing happens if it is over."""
        if transfer.state in (SendingState.COMPLETE, SendingState.FAILED):
            return
        self._control_frames.append(ControlFrame(Kind.CANCEL, transfer, reason=why))
        self._end_transfer(transfer, why)

    def take(
        self, carrier: int, *, chunk_bytes: int, now: float
    ) -> tuple[bytes | Chunk | None, float | None]:
        """What connection ``carrier`` sends next: (frame or chunk, None), or (None, when to ask
        again; None: when there is news)."""
        while self._control_frames:
            frame = self._render(self._control_frames.next(), carrier, now=now)
            if frame is not None:
                return frame, None
        if not self._order:
            return None, None
        ready_at = self.pacer.ready_at(now=now)
        if ready_at > now:
            return None, ready_at
        chunk, again = self._order.next_chunk(chunk_bytes)
        self.pacer.spend(len(chunk.view), now=now)
        self.counters.bytes_resent += len(chunk.view) if again else 0
        chunk.carrier = chunk.sent_via = carrier
        self._carried.setdefault(carrier, set()).add(chunk)
        chunk.segment.writers += 1
        return chunk, None

    def written(self, chunk: Chunk) -> None:
        """A connection has written all of a chunk, or was lost while writing it."""
        chunk.segment.writers -= 1
        self._release_if_free(chunk.transfer, chunk.segment)

    def lost(self, carrier: int, *, now: float) -> None:
        """A connection is gone: ask the receiver about all it carried."""
        for chunk in sorted(self._carried.pop(carrier, ()), key=lambda c: c.offset):
            self._control_frames.append(ControlFrame(Kind.QUERY, chunk.transfer, chunk))
        for transfer in self._transfers.values():
            if transfer.state is SendingState.OFFERING and transfer.offer_carrier == carrier:
                self._control_frames.append(ControlFrame(Kind.OFFER, transfer))
        self._control_frames.lost(carrier)

    def heard(self, carrier: int, header: Header, text: str, *, retry: bool, now: float) -> None:
        """A frame of the receiver (``text``, ``retry``: of its Reason). Raises PeerError."""
        if header.kind is Kind.FAILED:
            self._control_frames.answered(header.handle)
        transfer = self._transfers.get(header.handle)
        if transfer is None:
            return
        match header.kind:
            case Kind.ACK:
                self._acknowledged(transfer, header)
            case Kind.NACK:
                self._returned(transfer, header)
            case Kind.ACCEPT:
                self._accepted(transfer)
            case Kind.REFUSE if retry and transfer.state is SendingState.OFFERING:
                transfer.state = advance(SENDING_TRANSITIONS, transfer.state, SendingStep.DEFERRED)
                transfer.reoffer_at = now + transfer.reoffer_pause_s
                transfer.reoffer_pause_s = min(2 * transfer.reoffer_pause_s, _REOFFER_MAX_S)
            case Kind.REFUSE | Kind.FAILED:
                self._end_transfer(transfer, text)
            case _:
                raise PeerError(f"a receiver does not send {header.kind.name}")

    def tick(self, *, now: float, trouble: str = "") -> None:
        """Deadlines and offers that are due. ``trouble``: what is wrong with the line, for the
        reason of transfers that do not make it."""
        for transfer in list(self._transfers.values()):
            if now >= transfer.deadline_at:
                why = "deadline passed before all bytes were acknowledged"
                self.cancel(transfer, f"{why}; {trouble}" if trouble else why)
            elif transfer.state is SendingState.WAITING and now >= transfer.reoffer_at:
                transfer.state = advance(SENDING_TRANSITIONS, transfer.state, SendingStep.REOFFERED)
                self._control_frames.append(ControlFrame(Kind.OFFER, transfer))

    def restarted(self, why: str) -> None:
        """The receiver has forgotten what it had accepted: that fails. What it was only offered is
        offered again once the connection that carried the offer is lost."""
        for transfer in list(self._transfers.values()):
            if transfer.state is SendingState.SENDING:
                self._end_transfer(transfer, why)

    def fail_all(self, why: str) -> None:
        """Every transfer fails without a word to the receiver: we are closing."""
        self._control_frames.clear()
        for transfer in list(self._transfers.values()):
            self._end_transfer(transfer, why)

    def _render(self, wanted: ControlFrame, carrier: int, *, now: float) -> bytes | None:
        transfer = wanted.transfer
        if wanted.kind is Kind.CANCEL:
            self._control_frames.said(wanted, carrier)
            key = transfer.offer.key
            return reason(Kind.CANCEL, wanted.reason, handle=transfer.handle, key=key)
        if transfer.handle not in self._transfers:
            return None
        if wanted.kind is Kind.OFFER:
            transfer.offer_carrier = carrier
            # Bounded above as well: sums of large times are not exact, and a receiver is strict.
            left_s = min(max(transfer.deadline_at - now, 1e-3), transfer.offer.deadline_s)
            offer = msgspec.structs.replace(transfer.offer, deadline_s=left_s)
            return control(Kind.OFFER, offer, handle=transfer.handle)
        chunk = wanted.chunk
        assert chunk is not None
        if transfer.chunks.get(chunk.offset) is not chunk:
            return None
        chunk.carrier = carrier
        self._carried.setdefault(carrier, set()).add(chunk)
        return pack(
            Kind.QUERY,
            connection=chunk.sent_via,
            handle=transfer.handle,
            offset=chunk.offset,
            digest=len(chunk.view),
        )

    def _accepted(self, transfer: SendingTransfer) -> None:
        if transfer.state is not SendingState.OFFERING:
            return
        transfer.state = advance(SENDING_TRANSITIONS, transfer.state, SendingStep.ACCEPTED)
        self._order.join(transfer)
        self._complete_if_done(transfer)

    def _chunk(self, transfer: SendingTransfer, header: Header) -> Chunk | None:
        chunk = transfer.chunks.get(header.offset)
        if chunk is None:
            return None
        if header.digest != len(chunk.view):
            raise PeerError(f"{header.kind.name} of {header.digest} bytes for {len(chunk.view)}")
        return chunk

    def _acknowledged(self, transfer: SendingTransfer, header: Header) -> None:
        chunk = self._chunk(transfer, header)
        if chunk is None:
            return
        if chunk.carrier is None:
            transfer.returned.remove(chunk)
            transfer.unsent_bytes -= len(chunk.view)
            if not transfer.unsent_bytes:
                self._order.leave(transfer)
        self._uncarry(chunk)
        del transfer.chunks[chunk.offset]
        transfer.acknowledged_bytes += len(chunk.view)
        self.counters.bytes_acknowledged += len(chunk.view)
        chunk.segment.unacknowledged -= len(chunk.view)
        self._release_if_free(transfer, chunk.segment)
        self._complete_if_done(transfer)

    def _returned(self, transfer: SendingTransfer, header: Header) -> None:
        chunk = self._chunk(transfer, header)
        if chunk is None or chunk.carrier is None:
            return
        self.counters.chunks_returned += 1
        self._uncarry(chunk)
        chunk.carrier = None
        transfer.returned.append(chunk)
        transfer.unsent_bytes += len(chunk.view)
        self._order.join(transfer)

    def _uncarry(self, chunk: Chunk) -> None:
        if chunk.carrier is not None:
            self._carried.get(chunk.carrier, set()).discard(chunk)

    def _complete_if_done(self, transfer: SendingTransfer) -> None:
        if transfer.acknowledged_bytes < transfer.offer.total_bytes:
            return
        transfer.state = advance(SENDING_TRANSITIONS, transfer.state, SendingStep.ALL_ACKNOWLEDGED)
        self._forget(transfer)
        self.counters.transfers_completed += 1
        self.events.append(transfer.on_complete)

    def _end_transfer(self, transfer: SendingTransfer, why: str) -> None:
        transfer.state = advance(SENDING_TRANSITIONS, transfer.state, SendingStep.ENDED)
        self._forget(transfer)
        self.counters.transfers_failed += 1
        self.events.append(lambda: transfer.on_failed(why))

    def _forget(self, transfer: SendingTransfer) -> None:
        self._transfers.pop(transfer.handle)
        self._order.leave(transfer)
        held = {id(s): s for s in transfer.segments}
        held.update({id(c.segment): c.segment for c in transfer.chunks.values()})
        for chunk in transfer.chunks.values():
            self._uncarry(chunk)
        transfer.segments.clear()
        transfer.returned.clear()
        transfer.chunks.clear()
        transfer.unsent_bytes = 0
        for segment in held.values():
            segment.unacknowledged = 0
            self._release_if_free(transfer, segment)

    def _release_if_free(self, transfer: SendingTransfer, segment: Segment) -> None:
        if segment.unacknowledged == 0 and segment.writers == 0:
            # Never twice: from here on no chunk of it is known to the end.
            segment.unacknowledged = -1
            self.events.append(segment.on_released)

    def check_integrity(self) -> None:
        """Raise InvariantError where the books contradict each other."""
        for transfer in self._transfers.values():
            transfer.check_integrity()
            ready = transfer.state is SendingState.SENDING and transfer.unsent_bytes > 0
            if ready != (transfer in self._order):
                raise InvariantError("a transfer that is ready has no turn, or the reverse")
