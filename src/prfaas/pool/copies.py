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

import msgspec

from prfaas.core.errors import CapacityError, InvariantError
from prfaas.core.extents import Extent
from prfaas.core.handoff import TRANSFER_ID
from prfaas.core.transitions import advance
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache, Entry
from prfaas.pool.disk import Disk, OnDisk
from prfaas.pool.effects import CancelSend, ForgetSend, SendSlot, StartSend
from prfaas.pool.events import (
    CopyRequested,
    ExtentReleased,
    SendCompleted,
    SendFailed,
    SendProgressed,
)
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.lifecycle import EXPORT, ExportState, ExportStep
from prfaas.pool.records import Sent
from prfaas.pool.slots import ArenaFull
from prfaas.pool.spill import Spill


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


@dataclass(slots=True)
class _Waiting:
    """A copy of what is being read from disk. ``missing``: parts that are not there yet; ``ranks``:
    of all that were not, whose records say that they will come."""

    event: CopyRequested
    until: float
    missing: set[TransferKey]
    ranks: frozenset[int]


class Copies:
    """All copies that one agent sends to others.

    Args:
        most_slots: so many of the cache's may be pinned by several copies at a time.
    """

    def __init__(
        self, books: Books, cache: Cache, disk: Disk, spill: Spill, *, most_slots: int
    ) -> None:
        self._books, self._cache, self._most_slots = books, cache, most_slots
        self._disk, self._spill = disk, spill
        self._live: dict[TransferKey, _Copy] = {}
        self._waiting: dict[str, _Waiting] = {}

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
        self._request(event, frozenset())

    def _request(self, event: CopyRequested, ranks: frozenset[int]) -> None:
        """``ranks``: of parts whose records say that they will come."""
        here = [e for e in self._cache if e.key.transfer_id == event.transfer_id]
        entries = [entry for entry in here if not entry.arriving]
        known = {entry.key for entry in entries}
        files = [
            file
            for file in self._disk
            if file.what.key.transfer_id == event.transfer_id and file.what.key not in known
        ]
        parts = [*(e.what for e in entries), *(f.what for f in files)]
        reason = self._why_not(event, parts)
        if reason is None and not ranks <= {part.key.rank for part in parts}:
            reason = "a part was evicted before the others had come from disk"
        if reason is not None:
            self._note_failure(event, reason, ranks)
        elif files:
            self._read_first(event, files, ranks)
        else:
            for entry in entries:
                self._begin(event, entry)

    def read_back(self, key: TransferKey, reason: str | None) -> None:
        """A part has come from disk, or will not."""
        for copy_id, waiting in list(self._waiting.items()):
            if key not in waiting.missing:
                continue
            if reason is not None:
                self._give_up(copy_id, reason)
                continue
            waiting.missing.discard(key)
            if not waiting.missing:
                del self._waiting[copy_id]
                left = waiting.until - self._books.now
                again = msgspec.structs.replace(waiting.event, deadline_s=left)
                self._request(again, waiting.ranks)

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
        self._give_up(transfer_id, "cancelled")
        for copy in [c for k, c in self._live.items() if k.transfer_id == transfer_id]:
            self._cancel(copy, "cancelled")

    def forget(self, reason: str) -> None:
        """What is sent goes by other names now: none is made to its end."""
        for copy_id in list(self._waiting):
            self._give_up(copy_id, reason)
        for copy in list(self._live.values()):
            self._cancel(copy, reason)

    def transfer_ids(self) -> set[str]:
        """Of those that are not over."""
        live = {key.transfer_id for key, copy in self._live.items() if not copy.over}
        return live | self._waiting.keys()

    def expire(self) -> None:
        """End what is past its deadline."""
        for copy_id in [c for c, w in self._waiting.items() if w.until <= self._books.now]:
            self._give_up(copy_id, "deadline passed")
        for copy in [c for c in self._live.values() if c.deadline <= self._books.now]:
            self._cancel(copy, "deadline passed")

    def check_integrity(self) -> None:
        """Raise InvariantError where a copy is kept that is done, or its entry may go."""
        for key, copy in self._live.items():
            if copy.over and not copy.unreleased:
                raise InvariantError(f"copy {key} is done and kept")
            if not copy.entry.readers:
                raise InvariantError(f"copy {key} reads what is not pinned")

    def _why_not(self, event: CopyRequested, parts: list[KeptPrefix]) -> str | None:
        if not parts:
            return f"transfer {event.transfer_id} is not cached here"
        size = self._books.slots.slot_bytes
        slots = sum(-(-part.total_bytes // size) for part in parts)
        pinned = sum(len(copy.entry.slots) for copy in self._live.values())
        if pinned and pinned + slots > self._most_slots:
            return f"several copies may read {self._most_slots} slots at a time"
        fault = None if TRANSFER_ID.match(event.copy_id) else "a copy's name is a transfer id"
        if self._books.is_cancelled(event.copy_id):
            fault = "cancelled"
        under_way = {key.transfer_id for key in self._live} | self._waiting.keys()
        if event.copy_id in under_way:
            fault = "this copy is being made already"
        if not 0 < event.deadline_s <= self._books.longest_deadline_s:
            fault = f"deadline_s {event.deadline_s:g}: no request here lasts so long"
        return fault

    def _read_first(self, event: CopyRequested, files: list[OnDisk], ranks: frozenset[int]) -> None:
        books, missing = self._books, {file.what.key for file in files}
        try:
            for file in files:
                self._spill.read(file)
        except CapacityError as error:
            self._note_failure(event, str(error), ranks)
            return
        until = books.now + event.deadline_s
        ranks |= {key.rank for key in missing}
        self._waiting[event.copy_id] = _Waiting(event, until, missing, ranks)
        for file in files:
            key = TransferKey(event.copy_id, file.what.key.rank, books.next_epoch())
            pending = Sent(key, file.what.total_bytes, ExportState.PENDING)
            books.records.add_sent(pending, now=books.now)

    def _give_up(self, copy_id: str, reason: str) -> None:
        """A no-op for one that does not wait."""
        waiting = self._waiting.pop(copy_id, None)
        if waiting is not None:
            self._note_failure(waiting.event, reason, waiting.ranks)

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
            self._note_failure(event, str(error), frozenset({entry.key.rank}))
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

    def _note_failure(self, event: CopyRequested, reason: str, ranks: frozenset[int]) -> None:
        """Who waits for it should learn that it will not come."""
        books = self._books
        for rank in sorted(ranks or {0}):
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
