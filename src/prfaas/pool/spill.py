"""What is cached goes to disk, and comes back when it is asked for.

Theory of operation. Whatever is cached is written behind its back, in the order in which it came,
one at a time: so it is on disk, too, when memory needs its place, and outlives the agent. While it
is written it is pinned, as if an engine read it. Where the disk is too slow, what memory evicts
first is not written: nothing queues but the cache itself.

What is read back is a reception like any other: all of its slots are reserved before its first
byte, and whoever wants it waits until the last has come and every checksum is right. What is wrong
goes from the disk, and who waited computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prfaas.core.errors import InvariantError
from prfaas.core.extents import merged
from prfaas.link.api import TransferKey
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache, Entry
from prfaas.pool.disk import Disk, OnDisk
from prfaas.pool.disk_events import (
    SpillFound,
    SpillRead,
    SpillUnreadable,
    SpillWriteFailed,
    SpillWritten,
)
from prfaas.pool.effects import DropSpilled, ReadSpilled, WriteSpilled
from prfaas.pool.placement import flat_extents
from prfaas.pool.slots import ArenaFull
from prfaas.pool.spill_format import file_bytes

AGAIN_S = 0.1
"""After that it is tried again to pin what is to be written."""
PAUSE_S = 10.0
"""So long nothing is written after the disk has refused something."""


class Spill:
    """What one agent writes to its disk, and reads back.

    Args:
        most_slots: so many may be pinned to be written, and as many to be read, at a time.
    """

    def __init__(self, books: Books, cache: Cache, disk: Disk, *, most_slots: int) -> None:
        self._books, self._cache, self._disk, self._most_slots = books, cache, disk, most_slots
        self._writing: Entry | None = None
        self._reading: dict[TransferKey, Entry] = {}
        self._not_before = 0.0

    def actions(self) -> dict[type, Callable[[Any], None]]:
        """What the disk's events are for."""
        return {
            SpillFound: self._disk.found,
            SpillWritten: self.written,
            SpillWriteFailed: self.write_failed,
            SpillRead: self.was_read,
            SpillUnreadable: self.unreadable,
        }

    @property
    def due(self) -> bool:
        """Whether something could be begun to be written."""
        waits = self._cache.unwritten and self._writing is None
        return bool(waits) and self._books.now >= self._not_before

    def reading(self) -> Iterator[Entry]:
        """What is pinned to be written, or being read back, once for each."""
        if self._writing is not None:
            yield self._writing
        yield from self._reading.values()

    # to disk

    def write_next(self) -> None:
        """Begin with what came first."""
        unwritten, disk = self._cache.unwritten, self._disk
        while unwritten:
            key, entry = next(iter(unwritten.items()))
            fits = len(entry.slots) <= self._most_slots and disk.wants(entry.what)
            if not fits or not disk.make_room(file_bytes(entry.what)):
                del unwritten[key]
                self._books.counters.spill_missed += 1
                continue
            try:
                self._cache.pin(entry)
            except ArenaFull:
                self._not_before = self._books.now + AGAIN_S
                return
            del unwritten[key]
            self._writing = entry
            self._books.effects.append(WriteSpilled(entry.what, entry.extents))
            return

    def written(self, event: SpillWritten) -> None:
        """It is on disk."""
        entry = self._end_writing(event.key)
        what = entry.what
        if entry.naming != self._books.naming:
            self._books.effects.append(DropSpilled(what.key))
            return
        size = file_bytes(what)
        self._disk.add(OnDisk(what, size))
        self._books.counters.spill_written += 1
        self._books.counters.spill_written_bytes += what.total_bytes

    def write_failed(self, event: SpillWriteFailed) -> None:
        """It is not, and for a while nothing else is tried."""
        self._end_writing(event.key)
        self._books.counters.spill_write_failures += 1
        self._books.report("spill", event.key, event.reason)
        self._not_before = self._books.now + PAUSE_S
        if event.full:
            self._disk.is_full()
        else:
            self._disk.may_grow()

    def _end_writing(self, key: TransferKey) -> Entry:
        entry, self._writing = self._writing, None
        if entry is None or entry.key != key:
            raise InvariantError(f"{key} was written, and {entry and entry.key} was to be")
        self._cache.unpin(entry)
        return entry

    # from disk

    def read(self, found: OnDisk) -> Entry:
        """What is on disk alone comes into memory: an entry that arrives, or does so already.
        Raises CapacityError."""
        what = found.what
        known = self._reading.get(what.key)
        if known is not None:
            return known
        slots = self._books.slots
        needed = -(-what.total_bytes // slots.slot_bytes)
        under_way = sum(len(entry.slots) for entry in self._reading.values())
        if under_way and under_way + needed > self._most_slots:
            raise ArenaFull(f"{self._most_slots} slots at a time are read from disk")
        if not self._cache.room_to_read(needed):
            raise ArenaFull(f"no room for {needed} slots in the cache beside what is read")
        slots.reserve(what.total_bytes)
        held = slots.hold(what.key, needed)
        extents = merged(flat_extents(held, slots.slot_bytes, 0, what.total_bytes))
        entry = Entry(what, tuple(extents), held, 1, arriving=True, naming=self._books.naming)
        self._reading[what.key] = entry
        found.read = True
        self._cache.arrives(entry)
        self._books.effects.append(ReadSpilled(what, entry.extents))
        return entry

    def was_read(self, event: SpillRead) -> None:
        """Every byte is back, and right."""
        entry = self._end_reading(event.key)
        self._books.counters.spill_read += 1
        self._books.counters.spill_read_bytes += entry.what.total_bytes
        self._cache.arrived(entry)
        self._tell(event.key, None)

    def unreadable(self, event: SpillUnreadable) -> None:
        """Nobody gets it, and the file goes."""
        entry = self._end_reading(event.key)
        self._books.counters.spill_read_failures += 1
        self._books.report("spill", event.key, event.reason)
        self._cache.does_not_arrive(entry)
        found = self._disk.get(event.key)
        if found is not None:
            self._disk.drop(found)
        self._tell(event.key, event.reason)

    def _end_reading(self, key: TransferKey) -> Entry:
        entry = self._reading.pop(key, None)
        if entry is None:
            raise InvariantError(f"{key} was read from disk, and nobody wanted it")
        found = self._disk.get(key)
        if found is not None:
            found.read = False
        return entry

    def _tell(self, key: TransferKey, reason: str | None) -> None:
        self._books.read_back.append((key, reason))
        self._books.unsettled = True

    # now and then

    def expire(self) -> None:
        """A disk that was full may have room again."""
        if self._books.now >= self._not_before:
            self._disk.may_grow()

    def check_integrity(self) -> None:
        """Raise InvariantError where what arrives and what is read contradict each other."""
        arriving = {entry.key for entry in self._cache if entry.arriving}
        naming = self._books.naming
        read = {key for key, entry in self._reading.items() if entry.naming == naming}
        if arriving != read:
            raise InvariantError(f"{arriving} arrive, {read} are read")
        for entry in self._disk:
            if entry.read != (entry.what.key in self._reading):
                raise InvariantError(f"{entry.what.key} on disk is read: {entry.read}")
