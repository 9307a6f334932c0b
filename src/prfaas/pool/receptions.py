"""The receiving side: memory for transfers from the KV link and from engines beside us.

Only the memory's end differs between the two kinds: the link says itself when it holds no view any
more, a local hand-off ends with its export.

Reclaiming. A reception that failed, was cancelled or is past its deadline loses its memory, but
never while the link writes to it, a copy inside the arena is under way or an import reads from it:
then it lingers, unusable for new imports, until the last of them lets go.
"""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.core.errors import InvariantError, LayoutMismatch
from prfaas.core.extents import Extent
from prfaas.core.transitions import advance
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.awaited_copies import AwaitedCopies
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache
from prfaas.pool.description import Description
from prfaas.pool.effects import AbandonReception, AcceptOffer, CopySlot, RefuseOffer
from prfaas.pool.events import (
    OfferReceived,
    OfferWithdrawn,
    RangeStored,
    ReceptionFailed,
    SlotCopied,
    TransferReceived,
)
from prfaas.pool.lifecycle import RECEPTION, ReceptionState, ReceptionStep
from prfaas.pool.placement import Packing
from prfaas.pool.reception import Reception
from prfaas.pool.records import Received
from prfaas.pool.slots import ArenaFull, TooLarge


class Receptions:
    """Every reception with memory, by key, and which one an import would read."""

    def __init__(self, books: Books, cache: Cache, awaited: AwaitedCopies) -> None:
        self._books, self._cache, self._awaited = books, cache, awaited
        self._by_key: dict[TransferKey, Reception] = {}
        self._current: dict[tuple[str, int], Reception] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, transfer_id: str, rank: int) -> Reception | None:
        """The transfer an import may wait for or read."""
        return self._current.get((transfer_id, rank))

    # from another agent

    def offered(self, event: OfferReceived) -> None:
        """Accept or refuse, for now or for good."""
        books, offer = self._books, event.offer
        try:
            self._check(offer)
            reception = self._admit(offer, local=False)
            reception.description = self._awaited.description(offer)
            books.records.note_context(offer.key.transfer_id, offer.context)
        except ArenaFull as error:
            books.effects.append(RefuseOffer(offer.key, str(error), retry=True))
        except (_NotWanted, TooLarge, LayoutMismatch) as error:
            books.effects.append(RefuseOffer(offer.key, str(error), retry=False))
            self._note_failure(offer.key, offer.total_bytes, str(error))
            books.records.note_context(offer.key.transfer_id, offer.context)
            books.report("offer", offer.key, str(error), f" from={event.peer}")
        else:
            books.effects.append(AcceptOffer(offer.key, tuple(reception.slots)))

    def stored(self, event: RangeStored) -> None:
        """More of it is here. Runs once per chunk, between copies that empty the CPU's caches, so
        every further call here costs several times what it seems to."""
        reception = self._by_key.get(event.key)
        if reception is None:
            raise InvariantError(f"news of transfer {event.key}, which has no memory here")
        record, stored = reception.record, reception.stored
        stored.add(event.flat_offset, event.flat_offset + event.length)
        if record.first_byte_at is None:
            record.first_byte_at = self._books.now
        self._books.counters.received_bytes += stored.total - record.bytes_stored
        record.bytes_stored = stored.total

    def received(self, event: TransferReceived) -> None:
        """The link is done with it."""
        reception = self._of(event.key)
        reception.written_by_link = False
        if reception.record.state is ReceptionState.RECEIVING and reception.whole:
            self._complete(reception)
        else:
            self.drop(reception, "completed by the link without all of its bytes")

    def failed(self, event: ReceptionFailed) -> None:
        """The link has let it go."""
        reception = self._of(event.key)
        reception.written_by_link = False
        self.drop(reception, event.reason)

    def withdrawn(self, event: OfferWithdrawn) -> None:
        """It will not come."""
        self._note_failure(event.key, 0, event.reason)

    # from an engine beside us

    def admit_local(self, offer: TransferOffer) -> str | None:
        """Promise memory to an export; or why it can never have any. Raises ArenaFull."""
        try:
            self._admit(offer, local=True)
        except (_NotWanted, TooLarge) as error:
            return str(error)
        return None

    def hand_over(self, key: TransferKey, slot: int, extents: Sequence[Extent]) -> None:
        """Take a queued slot with bytes that were not handed over before."""
        reception = self._of(key)
        assert reception.packing is not None
        record = reception.record
        if record.first_byte_at is None:
            record.first_byte_at = self._books.now
        new_bytes = sum(extent.length for extent in extents)
        self._books.counters.received_bytes += new_bytes
        record.bytes_stored += new_bytes
        if len(reception.slots) < reception.reserved:
            self._books.slots.adopt(slot, key)
            reception.packing.adopt(slot, extents)
            self._complete_if_whole(reception)
        else:
            reception.copying += 1
            copies = tuple(reception.packing.pack(extents))
            self._books.effects.append(CopySlot(key, slot, copies))

    def copied(self, event: SlotCopied) -> None:
        """The bytes are in their place and the slot they came in is free."""
        reception = self._of(event.key)
        reception.copying -= 1
        self._books.slots.release(event.slot, event.key)
        self._complete_if_whole(reception)
        self._reclaim(reception)

    def export_failed(self, key: TransferKey, reason: str) -> None:
        """The export ended early; a no-op if it had no memory here."""
        if (reception := self._by_key.get(key)) is not None:
            self.drop(reception, reason)

    # caching

    def described(self, transfer_id: str, description: Description) -> None:
        """An engine has read it and says of what it is. Raises EngineError where it cannot be."""
        found = [r for k, r in self._by_key.items() if k.transfer_id == transfer_id]
        for reception in found:
            description.check(reception.offer)
        for reception in found:
            self.describe(reception.key, description)

    def describe(self, key: TransferKey, description: Description) -> None:
        """The same of one part; a no-op if it has no memory here."""
        reception = self._by_key.get(key)
        if reception is not None and description.reads(reception.offer):
            reception.description = description

    # reading

    def read(self, reception: Reception) -> None:
        """An import begins to read: the memory stays."""
        reception.readers += 1

    def extents(self, reception: Reception) -> tuple[Extent, ...]:
        """Where the bytes of a complete one lie, in flat order."""
        return tuple(reception.extents(self._books.slots.slot_bytes))

    def unread(self, reception: Reception) -> None:
        """An import has ended."""
        reception.readers -= 1
        self._reclaim(reception)

    # ends

    def cancelled(self, transfer_id: str) -> None:
        """The gateway needs the transfer no more."""
        for reception in [r for k, r in self._by_key.items() if k.transfer_id == transfer_id]:
            self.drop(reception, "cancelled")

    def expire(self) -> None:
        """Drop what is past its deadline."""
        for reception in [r for r in self._by_key.values() if r.deadline <= self._books.now]:
            self.drop(reception, "deadline passed")

    def drop(self, reception: Reception, reason: str) -> None:
        """It is not wanted any more; memory that nobody touches is free at once."""
        books, key, record = self._books, reception.key, reception.record
        if record.state is not ReceptionState.FAILED:
            step = ReceptionStep.DROPPED
            if record.state is ReceptionState.RECEIVING:
                step = ReceptionStep.GIVEN_UP
                books.counters.receptions_failed += 1
                books.report("reception", key, reason)
            record.state, record.reason = advance(RECEPTION, record.state, step), reason
            del self._current[key.transfer_id, key.rank]
            if reception.written_by_link:
                books.effects.append(AbandonReception(key, reason))
            if reception.packing is not None:
                books.local_ended(key, reason)
            self._changed(key)
        self._reclaim(reception)

    def check_integrity(self) -> None:
        """Raise InvariantError where slots, records and memory contradict each other."""
        slots = self._books.slots
        for key, reception in self._by_key.items():
            reception.stored.check_integrity()
            if sorted(reception.slots) != slots.held_by(key):
                raise InvariantError(f"{key} does not hold the slots it thinks: {reception.slots}")
            if len(reception.slots) > reception.reserved:
                raise InvariantError(f"{key} holds more than {reception.reserved} slots")
            if reception.packing is not None:
                reception.packing.check_integrity(reception.record.bytes_stored)
            elif reception.stored.total != reception.record.bytes_stored:
                raise InvariantError(f"{key}: stored bytes are miscounted")
            current = self._current.get((key.transfer_id, key.rank)) is reception
            if current is (reception.record.state is ReceptionState.FAILED):
                raise InvariantError(f"{key} is {reception.record.state}, current: {current}")
            if reception.reclaimable:
                raise InvariantError(f"{key} keeps memory that nobody wants")
            if reception.record.state is ReceptionState.COMPLETE and not reception.whole:
                raise InvariantError(f"{key} is complete without all of its bytes")
        held = sum(len(reception.slots) for reception in self._by_key.values())
        reserved = sum(reception.reserved for reception in self._by_key.values())
        counts = slots.counts()
        pinned = self._cache.pinned_slots
        held, reserved = held + pinned, reserved + pinned
        if (counts.held, counts.held + counts.promised) != (held, reserved):
            raise InvariantError(f"{held} held of {reserved} reserved; the slots say {counts}")

    def _of(self, key: TransferKey) -> Reception:
        try:
            return self._by_key[key]
        except KeyError:
            raise InvariantError(f"news of transfer {key}, which has no memory here") from None

    def _check(self, offer: TransferOffer) -> None:
        self._books.engines.check_offer(offer.layout_fingerprint)
        if not offer.total_bytes:  # However many there are, they would fit the arena.
            raise _NotWanted("it is of no bytes")
        if self._books.is_cancelled(offer.key.transfer_id):
            raise _NotWanted("cancelled")
        if offer.deadline_s > self._books.longest_deadline_s:
            raise _NotWanted(f"deadline_s {offer.deadline_s:g}: no request here lasts so long")

    def _admit(self, offer: TransferOffer, *, local: bool) -> Reception:
        books, key = self._books, offer.key
        place = (key.transfer_id, key.rank)
        # A key that lingers is as much here: two receptions of one key could not be told apart.
        if place in self._current or key in self._by_key:
            raise _NotWanted(f"transfer {key.transfer_id} rank {key.rank} is here already")
        reserved = books.slots.reserve(offer.total_bytes)
        slots = [] if local else books.slots.hold(key, reserved)
        packing = Packing(slots, books.slots.slot_bytes) if local else None
        record = Received(offer.total_bytes)
        deadline = books.now + offer.deadline_s
        reception = Reception(offer, deadline, record, reserved, slots, packing, not local)
        self._by_key[key] = self._current[place] = reception
        books.records.add_received(*place, record, now=books.now)
        books.announce(key.transfer_id)
        return reception

    def _note_failure(self, key: TransferKey, total_bytes: int, reason: str) -> None:
        """Who waits for this transfer here should learn that it will not come."""
        records = self._books.records
        if records.received(key.transfer_id, key.rank) is None:
            record = Received(total_bytes, ReceptionState.FAILED, reason)
            records.add_received(key.transfer_id, key.rank, record, now=self._books.now)
            self._books.announce(key.transfer_id)

    def _complete_if_whole(self, reception: Reception) -> None:
        if reception.record.state is ReceptionState.RECEIVING and reception.whole:
            self._complete(reception)
            self._books.local_ended(reception.key, None)

    def _complete(self, reception: Reception) -> None:
        record = reception.record
        record.state = advance(RECEPTION, record.state, ReceptionStep.ALL_STORED)
        record.completed_at = self._books.now
        self._books.counters.receptions_complete += 1
        self._changed(reception.key)
        if reception.is_for_the_cache:
            del (
                self._by_key[reception.key],
                self._current[reception.key.transfer_id, reception.key.rank],
            )
            self._let_go(reception)
            self._books.memory_freed = True

    def _changed(self, key: TransferKey) -> None:
        self._books.records.touch(key.transfer_id, now=self._books.now)
        self._books.announce(key.transfer_id)

    def _reclaim(self, reception: Reception) -> None:
        if reception.reclaimable:
            del self._by_key[reception.key]
            self._let_go(reception)
            self._books.memory_freed = self._books.unsettled = True

    def _let_go(self, reception: Reception) -> None:
        """Its memory is free, or cached: which is as good as free."""
        slots, key, description = self._books.slots, reception.key, reception.description
        if description is None or not reception.whole or not self._cache.most_slots:
            slots.end_reception(key, reception.slots, reception.reserved)
            return
        slots.cache(key, reception.slots, reception.reserved)
        extents = reception.extents(slots.slot_bytes)
        kept = self._cache.take(description.entry(reception.offer, extents, list(reception.slots)))
        if kept and reception.is_for_the_cache and reception.packing is None:
            self._books.counters.copies_kept += 1


class _NotWanted(Exception):
    """Why an offer is refused though there may be room."""
