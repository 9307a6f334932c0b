"""Cached prefixes on their way to another agent, and those that are awaited from one.

A copy is a transfer like any other, but its bytes are those of an entry, and nobody may read it
where it arrives: it has no readers, and becomes an entry there as soon as it is whole. While it is
sent, the entry is pinned as if an engine read it.

What the bytes are of, the sender alone knows: its engines have told it. The gateway carries that
`Prefix` to the receiver, and the offer, which comes over the link, carries a digest of it. Without
both, or where they differ, nothing is cached: a gateway that is wrong can put no prompt's pages
under another's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prfaas.core.errors import InvariantError
from prfaas.core.extents import Extent
from prfaas.core.handoff import TRANSFER_ID
from prfaas.core.prefixes import Prefix
from prfaas.core.transitions import advance
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache, Entry
from prfaas.pool.description import Description
from prfaas.pool.effects import CancelSend, ForgetSend, SendSlot, StartSend
from prfaas.pool.events import (
    CopyAwaited,
    CopyRequested,
    ExtentReleased,
    SendCompleted,
    SendFailed,
    SendProgressed,
)
from prfaas.pool.lifecycle import EXPORT, ExportState, ExportStep
from prfaas.pool.records import Sent
from prfaas.pool.slots import ArenaFull

MOST_AWAITED = 1024
"""Of one agent. What one more displaces arrives, and is not cached."""


@dataclass(slots=True)
class _Copy:
    offer: TransferOffer
    entry: Entry
    deadline: float
    record: Sent
    unreleased: int
    """Extents that the link still reads."""

    @property
    def over(self) -> bool:
        return self.record.state is not ExportState.SENDING


class Copies:
    """Of one agent, to others.

    Args:
        most_slots: so many of the cache's may be pinned by several copies at a time.
    """

    def __init__(self, books: Books, cache: Cache, *, most_slots: int) -> None:
        self._books, self._cache, self._most_slots = books, cache, most_slots
        self._live: dict[TransferKey, _Copy] = {}

    def __len__(self) -> int:
        return len(self._live)

    def owns(self, key: TransferKey) -> bool:
        """Whether the link's news of it is for this part."""
        return key in self._live

    def reading(self) -> Iterator[Entry]:
        """What is pinned for copies, once for each."""
        return (copy.entry for copy in self._live.values())

    def requested(self, event: CopyRequested) -> None:
        """Begin to send every rank's part. What cannot be sent is failed: `Sent` says why."""
        entries = [
            e for e in self._cache if e.key.transfer_id == event.transfer_id and not e.arriving
        ]
        reason = self._why_not(event, entries)
        if reason is not None:
            self._note_failure(event, reason)
        for entry in entries if reason is None else ():
            self._begin(event, entry)

    def progressed(self, event: SendProgressed) -> None:
        """For the record."""
        record = self._books.records.sent(event.key)
        if record is not None:
            record.bytes_acknowledged = event.acknowledged_bytes

    def sent(self, event: SendCompleted) -> None:
        """The receiver has everything."""
        self._books.effects.append(ForgetSend(event.key))
        self._end(self._live[event.key], None)

    def send_failed(self, event: SendFailed) -> None:
        """The link has given it up, or was told to."""
        self._books.effects.append(ForgetSend(event.key))
        self._end(self._live[event.key], event.reason)

    def released(self, event: ExtentReleased) -> None:
        """The link reads one extent no more."""
        copy = self._live[event.key]
        copy.unreleased -= 1
        if copy.unreleased < 0:
            raise InvariantError(f"copy {event.key} was released more often than it was sent")
        self._forget_if_done(copy)

    def cancelled(self, transfer_id: str) -> None:
        """Nobody needs it any more."""
        for copy in [c for k, c in self._live.items() if k.transfer_id == transfer_id]:
            self._cancel(copy, "cancelled")

    def transfer_ids(self) -> set[str]:
        """Of those that are not over."""
        return {key.transfer_id for key, copy in self._live.items() if not copy.over}

    def expire(self) -> None:
        """End what is past its deadline."""
        for copy in [c for c in self._live.values() if c.deadline <= self._books.now]:
            self._cancel(copy, "deadline passed")

    def check_integrity(self) -> None:
        """Raise InvariantError where a copy is kept that is done, or its entry may go."""
        for key, copy in self._live.items():
            if copy.over and not copy.unreleased:
                raise InvariantError(f"copy {key} is done and kept")
            if not copy.entry.readers:
                raise InvariantError(f"copy {key} reads what is not pinned")

    def _why_not(self, event: CopyRequested, entries: list[Entry]) -> str | None:
        if not entries:
            return f"transfer {event.transfer_id} is not cached here"
        slots = sum(len(entry.slots) for entry in entries)
        pinned = sum(len(copy.entry.slots) for copy in self._live.values())
        if pinned and pinned + slots > self._most_slots:
            return f"several copies may read {self._most_slots} slots at a time"
        fault = None if TRANSFER_ID.match(event.copy_id) else "a copy's name is a transfer id"
        if self._books.is_cancelled(event.copy_id):
            fault = "cancelled"
        if any(key.transfer_id == event.copy_id for key in self._live):
            fault = "this copy is being made already"
        if not 0 < event.deadline_s <= self._books.longest_deadline_s:
            fault = f"deadline_s {event.deadline_s:g}: no request here lasts so long"
        return fault

    def _begin(self, event: CopyRequested, entry: Entry) -> None:
        books = self._books
        offer = TransferOffer(
            TransferKey(event.copy_id, entry.key.rank, books.next_epoch()),
            entry.layout,
            entry.from_token,
            entry.to_token,
            entry.what.total_bytes,
            event.deadline_s,
            event.priority,
            entry.prefix.digest(),
        )
        try:
            self._cache.pin(entry)
        except ArenaFull as error:
            self._note_failure(event, str(error), rank=entry.key.rank)
            return
        self._cache.use(entry)
        by_slot = _by_slot(entry.extents, books.slots.slot_bytes)
        pieces = sum(map(len, by_slot.values()))
        record = Sent(offer.key, offer.total_bytes, ExportState.SENDING)
        deadline = books.now + event.deadline_s
        self._live[offer.key] = _Copy(offer, entry, deadline, record, pieces)
        books.records.add_sent(record, now=books.now)
        books.effects.append(StartSend(event.destination, offer))
        books.effects += [SendSlot(offer.key, slot, some) for slot, some in by_slot.items()]

    def _note_failure(self, event: CopyRequested, reason: str, *, rank: int = 0) -> None:
        """Who waits for it should learn that it will not come."""
        books = self._books
        key = TransferKey(event.copy_id, rank, books.next_epoch())
        books.records.add_sent(Sent(key, 0, ExportState.FAILED, reason), now=books.now)
        books.counters.copies_failed += 1
        books.report("copy", key, reason, f" to={event.destination}")
        books.announce(event.copy_id)

    def _cancel(self, copy: _Copy, reason: str) -> None:
        if not copy.over:
            self._books.effects.append(CancelSend(copy.offer.key, reason))
            self._end(copy, reason)

    def _end(self, copy: _Copy, reason: str | None) -> None:
        books, key, record = self._books, copy.offer.key, copy.record
        if not copy.over:
            step = ExportStep.ALL_ACKNOWLEDGED if reason is None else ExportStep.ENDED
            record.state = advance(EXPORT, record.state, step)
            record.reason, record.completed_at = reason, books.now
            if reason is None:
                record.bytes_acknowledged = copy.offer.total_bytes
                books.counters.copies_complete += 1
            else:
                books.counters.copies_failed += 1
                books.report("copy", key, reason)
            books.records.touch(key.transfer_id, now=books.now)
            books.announce(key.transfer_id)
        self._forget_if_done(copy)

    def _forget_if_done(self, copy: _Copy) -> None:
        if copy.over and not copy.unreleased and self._live.pop(copy.offer.key, None) is copy:
            self._cache.unpin(copy.entry)


def _by_slot(extents: Iterable[Extent], slot_bytes: int) -> dict[int, tuple[Extent, ...]]:
    """Cut where slots end."""
    found: dict[int, list[Extent]] = {}
    for extent in extents:
        first, last = extent.arena_offset // slot_bytes, (extent.arena_end - 1) // slot_bytes
        for slot in range(first, last + 1):
            skipped = max(0, slot * slot_bytes - extent.arena_offset)
            start = extent.flat_offset + skipped
            end = min(
                extent.flat_end, extent.flat_offset + (slot + 1) * slot_bytes - extent.arena_offset
            )
            found.setdefault(slot, []).append(extent.part(start, end))
    return {slot: tuple(some) for slot, some in found.items()}


class AwaitedCopies:
    """What gateways have said that copies are of which other agents will send here."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._awaited: dict[str, tuple[Prefix, float]] = {}

    def awaited(self, event: CopyAwaited) -> None:
        """Until its deadline."""
        self.expire()
        while len(self._awaited) >= MOST_AWAITED:
            del self._awaited[next(iter(self._awaited))]
        self._awaited[event.copy_id] = event.prefix, self._books.now + event.deadline_s

    def description(self, offer: TransferOffer) -> Description | None:
        """What an offer is of, if it is such a copy and an engine here could read it."""
        found = self._awaited.get(offer.key.transfer_id)
        if found is None or offer.readers or offer.prompt_digest != found[0].digest():
            return None
        for engine in self._books.engines.entries():
            description = Description(found[0], engine.layout)
            if description.reads(offer) and description.fault(offer) is None:
                return description
        return None

    def cancelled(self, transfer_id: str) -> None:
        """It will not come, or is not wanted."""
        self._awaited.pop(transfer_id, None)

    def expire(self) -> None:
        """Forget what has not come."""
        now = self._books.now
        for copy_id in [c for c, (_, until) in self._awaited.items() if until <= now]:
            del self._awaited[copy_id]
