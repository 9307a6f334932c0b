"""The receiving end of the KV link: which bytes have arrived, whoever carried them.

Theory of operation. One `ReceivingEnd` serves all connections of all senders. A sender is a
*session* (it restarts with a new one) with any number of connections; a transfer belongs to a
session and is named there by its handle. A connection that reads a DATA header *claims* the range;
only then is memory asked for and written. Claims and stored ranges never overlap, so verified
bytes are never overwritten and no two connections write the same memory. A claim ends with the
payload (stored and acknowledged if intact, returned if not) or with its connection.

Whatever is not stored is answered: ACK for what is there already, NACK for what must be sent
again, FAILED for a transfer that is over. A QUERY asks for the fate of a range that was sent over
a lost connection: it is answered once that connection's reader is gone, so the answer is final.

A transfer that ends early waits in ENDING until no claim is left: then the sink may have its
memory back. Outcomes are remembered per session, so late frames get a true answer.
The end takes no lock and calls nobody: the driver serialises calls and delivers ``events``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from prfaas.core.errors import InvariantError, PeerError
from prfaas.core.transitions import advance
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.protocol.frames import Header, Kind, Reason, pack, reason
from prfaas.link.protocol.lifecycle import (
    RECEIVING_TRANSITIONS,
    ReceivingState,
    ReceivingStep,
)
from prfaas.link.protocol.receiving_records import (
    Claim,
    Completed,
    Connection,
    Event,
    Failed,
    ReceivingCounters,
    ReceivingTransfer,
    Recent,
    Session,
    Sessions,
    Stored,
    Withdrawn,
)
from prfaas.link.protocol.receiving_replies import about, fate, of_range

MAX_TRANSFERS = 4096
"""At a time, from one peer: bounds the memory for their records."""
PEER_GRACE_S = 5.0
"""A sender that closed its last connection and has not come back after this is dead or restarted:
requests that wait for its transfers should be prefilled elsewhere without further delay."""


class ReceivingEnd:
    """All incoming transfers of one agent."""

    def __init__(
        self, *, max_transfers: int = MAX_TRANSFERS, peer_grace_s: float = PEER_GRACE_S
    ) -> None:
        self.events: deque[Event] = deque()
        self.counters = ReceivingCounters()
        self._max_transfers, self._peer_grace_s = max_transfers, peer_grace_s
        self._sessions = Sessions()
        self._owners: Recent[tuple[str, int], str] = Recent()
        """The peer that first offered a rank of a transfer: nobody else may withdraw it."""

    def opened(self, peer: str, session: int, number: int, connection: Connection) -> Session:
        """A connection has said who it is. Raises PeerError for a number used twice, or too many
        sessions."""
        known = self._sessions.of(peer, session)
        if number in known.connections:
            raise PeerError(f"connection {number} of {peer!r} exists already")
        known.connections[number] = connection
        known.abandoned_at = None
        return known

    def closed(self, session: Session, number: int, claim: Claim | None, *, now: float) -> None:
        """A connection's reader is gone, and writes nothing any more."""
        del session.connections[number]
        if claim is not None:
            self._let_go(claim)
        for via, header in session.deferred.pop(number, ()):
            self._answer(session, via, header)
        if not session.connections:
            session.abandoned_at = now

    def offer(
        self, session: Session, via: Connection, handle: int, offer: TransferOffer, *, now: float
    ) -> ReceivingTransfer | None:
        """An OFFER arrived. A transfer is returned where the sink must be asked (`answered`)."""
        known = session.transfers.get(handle)
        if known is not None:
            known.offered_via = via
            if known.state is ReceivingState.RECEIVING:
                via.reply(pack(Kind.ACCEPT, handle=handle))
            return None
        if handle in session.outcomes:
            via.reply(fate(session, handle))
            return None
        refusal = self._objection(session, offer)
        if refusal is not None:
            via.reply(reason(Kind.REFUSE, refusal.reason, handle=handle, retry=refusal.retry))
            return None
        place = offer.key.transfer_id, offer.key.rank
        if place not in self._owners:
            self._owners[place] = session.peer
        transfer = ReceivingTransfer(session, handle, offer, now + offer.deadline_s, via)
        session.transfers[handle] = transfer
        return transfer

    def _objection(self, session: Session, offer: TransferOffer) -> Refusal | None:
        if self._sessions.transfers_of(session.peer) >= self._max_transfers:
            return Refusal("too many incoming transfers", retry=True)
        for other in self._living(session.peer, offer.key):
            if other.offer.key.epoch >= offer.key.epoch:
                return Refusal(f"epoch {offer.key.epoch} is not newer than the living one")
            self._break_off(other, f"superseded by epoch {offer.key.epoch}")
            return Refusal("the older epoch is being closed", retry=True)
        return None

    def _living(self, peer: str, key: TransferKey) -> Iterator[ReceivingTransfer]:
        own = [session for session in self._sessions.values() if session.peer == peer]
        for session in own:  # What others have costs this one nothing.
            for other in list(session.transfers.values()):
                known = other.offer.key
                if (known.transfer_id, known.rank) == (key.transfer_id, key.rank):
                    yield other

    def answered(self, transfer: ReceivingTransfer, answer: Reception | Refusal) -> None:
        """The sink's answer to an offer."""
        handle, via = transfer.handle, transfer.offered_via
        if isinstance(answer, Refusal):
            if transfer.state is ReceivingState.ENDING:
                self.events.append(Withdrawn(transfer.offer.key, transfer.reason))
            transfer.state = advance(RECEIVING_TRANSITIONS, transfer.state, ReceivingStep.REFUSED)
            del transfer.session.transfers[handle]
            self.counters.transfers_refused += 1
            via.reply(reason(Kind.REFUSE, answer.reason, handle=handle, retry=answer.retry))
            return
        transfer.state = advance(RECEIVING_TRANSITIONS, transfer.state, ReceivingStep.TAKEN)
        transfer.reception = answer
        if transfer.state is ReceivingState.ENDING:
            self._finish_ending(transfer)
            return
        via.reply(pack(Kind.ACCEPT, handle=handle))
        if transfer.offer.total_bytes == 0:
            self._complete(transfer)

    def claim(self, session: Session, via: Connection, header: Header) -> Claim | None:
        """A DATA header arrived: the claim, or None (answered; drain the payload).

        Raises PeerError for a range outside the transfer or partly there.
        """
        transfer = session.transfers.get(header.handle)
        if transfer is None or transfer.state is not ReceivingState.RECEIVING:
            if transfer is not None and transfer.state is ReceivingState.ASKING:
                raise PeerError("DATA before ACCEPT")
            self.counters.bytes_duplicate += header.length
            via.reply(fate(session, header.handle, header))
            return None
        start, end = header.offset, header.offset + header.length
        if end > transfer.offer.total_bytes:
            raise PeerError(f"chunk [{start}, {end}) of {transfer.offer.total_bytes} bytes")
        if transfer.stored.covers(start, end):
            self.counters.bytes_duplicate += header.length
            via.reply(about(Kind.ACK, header))
            return None
        if transfer.claimed(start, end):
            self.counters.bytes_duplicate += header.length
            via.reply(about(Kind.NACK, header))
            return None
        if transfer.stored.overlaps(start, end):
            raise PeerError(f"chunk [{start}, {end}) cuts a range that was stored")
        if transfer.has_most_gaps:
            raise PeerError("too many gaps in what was sent")
        assert transfer.reception is not None
        transfer.claims[start] = end
        return Claim(transfer, start, header.length, transfer.reception)

    def settle(self, claim: Claim, via: Connection, *, intact: bool) -> None:
        """The claimed payload is in memory; ``intact``: its checksum is right."""
        transfer = claim.transfer
        if intact and transfer.state is ReceivingState.RECEIVING:
            del transfer.claims[claim.offset]
            transfer.store(claim.offset, claim.offset + claim.length)
            self.counters.bytes_stored += claim.length
            self.events.append(Stored(transfer.offer, claim.offset, claim.length))
            via.reply(of_range(Kind.ACK, transfer.handle, claim.offset, claim.length))
            if transfer.stored.total == transfer.offer.total_bytes:
                self._complete(transfer)
            return
        if not intact:
            self.counters.chunks_corrupt += 1
            via.reply(of_range(Kind.NACK, transfer.handle, claim.offset, claim.length))
        self._let_go(claim)

    def give_up(self, claim: Claim, why: str) -> None:
        """The sink had no memory for a claim it should have had: the transfer fails."""
        self._break_off(claim.transfer, why)
        self._let_go(claim)

    def query(self, session: Session, via: Connection, header: Header) -> None:
        """What became of a range that was sent over connection ``header.connection``?"""
        lost = session.connections.get(header.connection)
        if lost is None:
            self._answer(session, via, header)
            return
        if lost is via:
            raise PeerError("a QUERY names the connection it came over")
        session.deferred.setdefault(header.connection, []).append((via, header))
        lost.sever()

    def cancel(self, session: Session, via: Connection, handle: int, why: Reason) -> None:
        """The sender cancels; always answered with FAILED, over the connection that asked: if that
        is lost, the sender asks again over another."""
        transfer = session.transfers.get(handle)
        if transfer is not None:
            self._end_transfer(transfer, why.reason)
        elif handle not in session.outcomes:
            session.remember(handle, why.reason)
            if why.key is not None and self._owns(session.peer, why.key):
                self.events.append(Withdrawn(why.key, why.reason))
        via.reply(reason(Kind.FAILED, "cancelled", handle=handle))

    def _owns(self, peer: str, key: TransferKey) -> bool:
        return self._owners.get((key.transfer_id, key.rank), peer) == peer

    def abandon(self, key: TransferKey, why: str) -> None:
        """The receiving agent wants no more of a transfer; unknown keys are ignored."""
        for session in self._sessions.values():
            for transfer in list(session.transfers.values()):
                if transfer.offer.key == key:
                    self._break_off(transfer, why)

    def tick(self, *, now: float) -> None:
        """End what is past its deadline or whose sender has been gone for too long."""
        for place, session in list(self._sessions.items()):
            gone = (
                session.abandoned_at is not None
                and now - session.abandoned_at >= self._peer_grace_s
            )
            for transfer in list(session.transfers.values()):
                if gone:
                    self._break_off(transfer, f"{session.peer} has been gone for too long")
                elif now >= transfer.deadline_at:
                    self._break_off(transfer, "deadline passed before all bytes arrived")
            if gone and not session.transfers:
                del self._sessions[place]

    def close(self, why: str) -> None:
        """End everything."""
        for session in self._sessions.values():
            for transfer in list(session.transfers.values()):
                self._break_off(transfer, why)

    def _answer(self, session: Session, via: Connection, header: Header) -> None:
        transfer = session.transfers.get(header.handle)
        if transfer is None or transfer.state is not ReceivingState.RECEIVING:
            via.reply(fate(session, header.handle, header))
            return
        there = transfer.stored.covers(header.offset, header.offset + header.digest)
        via.reply(about(Kind.ACK if there else Kind.NACK, header))

    def _complete(self, transfer: ReceivingTransfer) -> None:
        transfer.state = advance(RECEIVING_TRANSITIONS, transfer.state, ReceivingStep.ALL_STORED)
        self.counters.transfers_completed += 1
        self.events.append(Completed(transfer.offer))
        transfer.session.forget(transfer, None)

    def _break_off(self, transfer: ReceivingTransfer, why: str) -> None:
        """End a transfer that its sender believes under way, and say so."""
        via = next(iter(transfer.session.connections.values()), None)
        if via is not None and transfer.state is not ReceivingState.ENDING:
            via.reply(reason(Kind.FAILED, why, handle=transfer.handle))
        self._end_transfer(transfer, why)

    def _end_transfer(self, transfer: ReceivingTransfer, why: str) -> None:
        if transfer.state is ReceivingState.ENDING:
            return
        asking = transfer.state is ReceivingState.ASKING
        transfer.state = advance(RECEIVING_TRANSITIONS, transfer.state, ReceivingStep.ENDED)
        transfer.reason = why
        if not asking:
            self._finish_ending(transfer)

    def _let_go(self, claim: Claim) -> None:
        del claim.transfer.claims[claim.offset]
        if claim.transfer.state is ReceivingState.ENDING:
            self._finish_ending(claim.transfer)

    def _finish_ending(self, transfer: ReceivingTransfer) -> None:
        if transfer.claims:
            return
        transfer.state = advance(RECEIVING_TRANSITIONS, transfer.state, ReceivingStep.LET_GO)
        self.counters.transfers_failed += 1
        self.events.append(Failed(transfer.offer, transfer.reason))
        transfer.session.forget(transfer, transfer.reason)

    def check_integrity(self) -> None:
        """Raise InvariantError where ranges contradict each other."""
        for session in self._sessions.values():
            for transfer in session.transfers.values():
                spans = sorted(transfer.claims.items())
                if any(transfer.stored.overlaps(a, b) for a, b in spans):
                    raise InvariantError("a stored range is being written")
                if any(b > c for (_, b), (c, _) in pairwise(spans)):
                    raise InvariantError("two connections write the same bytes")
                if transfer.stored.total >= transfer.offer.total_bytes > 0:
                    raise InvariantError("a full transfer is not complete")
