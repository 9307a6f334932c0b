"""Cached prefixes: transfers that are over, kept where they lie until somebody needs the memory.

How they are found, and in which order they go, is `entries`'. What a load reads is never evicted.
Anything else is, at once, when slots are needed. What an agent with a disk has cached is written
there as well (`spill`); what is read back from there is an entry from the beginning, but nobody may
read it before it is whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prfaas.core.errors import InvariantError
from prfaas.core.extents import Extent
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey
from prfaas.pool.books import Books, CachedTransfer
from prfaas.pool.disk import Disk, announced
from prfaas.pool.effects import AnnounceCached, AnnounceEvicted
from prfaas.pool.entries import Entries
from prfaas.pool.kept import KeptPrefix, Tier


@dataclass(eq=False, slots=True)
class Entry:
    """See the module. ``extents`` cover all of its bytes in flat order."""

    what: KeptPrefix
    extents: tuple[Extent, ...]
    slots: list[int]
    readers: int = 0
    arriving: bool = False
    """It is being read from disk."""
    naming: int = 0
    """See `Books`: of an earlier one it is not kept."""

    @property
    def key(self) -> TransferKey:
        """Of the transfer."""
        return self.what.key

    @property
    def layout(self) -> str:
        """Fingerprint of the rank whose pages they are."""
        return self.what.layout

    @property
    def prefix(self) -> Prefix:
        """Of the transfer's whole blocks."""
        return self.what.prefix

    @property
    def from_token(self) -> int:
        """Its first."""
        return self.what.from_token

    @property
    def to_token(self) -> int:
        """Where the transfer ended."""
        return self.what.to_token

    @property
    def announcement(self) -> AnnounceCached:
        """That it can be loaded."""
        stands_at = self.what.stands_at if self.what.needs_state else None
        tier: Tier = "disk" if self.arriving else "memory"
        return AnnounceCached(self.key, self.layout, self.prefix, stands_at, tier)


class Cache:
    """Every entry, the least recently used first.

    Args:
        most_slots: how many may be cached; 0: nothing is kept.
        disk: where what is kept is written, too.
    """

    def __init__(self, books: Books, *, most_slots: int, disk: Disk) -> None:
        self._books, self.most_slots, self._disk = books, most_slots, disk
        self._entries: Entries[Entry] = Entries()
        self._leaving: dict[TransferKey, Entry] = {}
        """What was forgotten while it was read."""
        self._growing: dict[TransferKey, list[int]] = {}
        """Slots of exports that have been sent, and will be an entry when all have."""
        self._slots = 0
        """Of all entries and of what grows."""
        self.pinned_slots = 0
        """Of entries that are read."""
        self.unwritten: dict[TransferKey, Entry] = {}
        """What the disk should have, in the order in which it came."""
        books.slots.reclaim = self._reclaim
        disk.lies_below(lambda key: self._entries.get(key) is not None)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def named(self, layout: str, name: bytes) -> list[Entry]:
        """See `Entries.named`."""
        return self._entries.named(layout, name)

    def take(self, entry: Entry) -> bool:
        """Keep a transfer whose slots are cached now. False, and they are free again, where it is
        not worth it, or there is no room."""
        if not self._worth(entry):
            self._books.slots.evict(entry.key, entry.slots)
            return False
        for other in self._entries.replaced_by(entry.what):
            if not other.readers:
                self._evict(other)
        self._slots += len(entry.slots)
        self._add(entry)
        self._books.counters.cache_stored += 1
        self._books.effects.append(entry.announcement)
        if self._disk.wants(entry.what):
            self.unwritten[entry.key] = entry
        self._shrink(self.most_slots, spare=entry)
        return True

    def use(self, entry: Entry) -> None:
        """See `Entries.use`."""
        self._entries.use(entry)
        self._disk.use(entry.key)

    def stands_on(self, entry: Entry) -> Iterator[Entry]:
        """See `Entries.stands_on`."""
        return self._entries.stands_on(entry)

    def pin(self, entry: Entry) -> None:
        """A load begins to read. Raises ArenaFull."""
        if not entry.readers:
            self._books.slots.pin(entry.key, entry.slots)
            self.pinned_slots += len(entry.slots)
        entry.readers += 1

    def unpin(self, entry: Entry) -> None:
        """A load has ended."""
        entry.readers -= 1
        if not entry.readers:
            self._books.slots.cache(entry.key, entry.slots, len(entry.slots))
            self.pinned_slots -= len(entry.slots)
            self._books.memory_freed = self._books.unsettled = True
            if self._leaving.pop(entry.key, None) is not None:
                self._free(entry)

    def forget(self) -> None:
        """Names are others now. What is read stays until it is read no more; nobody finds it."""
        self.unwritten.clear()
        entries = list(self._entries)
        self._entries.clear()
        for entry in entries:
            self._books.effects.append(AnnounceEvicted(entry.key))
            if entry.readers:
                self._leaving[entry.key] = entry
            else:
                self._free(entry)

    # from disk

    def room_to_read(self, slots: int) -> bool:
        """Whether so many more may be read at a time."""
        return self.pinned_slots + slots <= self.most_slots

    def arrives(self, entry: Entry) -> None:
        """Its slots are held, and are being filled: whoever does that is its first reader."""
        self._slots += len(entry.slots)
        self.pinned_slots += len(entry.slots)
        self._add(entry)
        self._shrink(self.most_slots, spare=entry)

    def arrived(self, entry: Entry) -> None:
        """Every byte is there, and right."""
        entry.arriving = False
        if entry.key not in self._leaving:
            self._books.effects.append(entry.announcement)
        self.unpin(entry)

    def does_not_arrive(self, entry: Entry) -> None:
        """Whoever waited for it must know; its memory is free."""
        if self._leaving.pop(entry.key, None) is None:
            self._entries.remove(entry)
        self._slots -= len(entry.slots)
        self.pinned_slots -= len(entry.slots)
        self._books.slots.end_reception(entry.key, entry.slots, len(entry.slots))
        self._books.memory_freed = self._books.unsettled = True

    # exports on their way

    def grow(self, key: TransferKey) -> None:
        """An export begins whose slots are to be kept as they are sent."""
        self._growing[key] = []

    def keep(self, key: TransferKey, slot: int) -> bool:
        """A queued slot was sent: keep it, for anybody to take who needs it. False where slots of
        the export were taken already, or it was never to be kept."""
        slots = self._growing.get(key)
        if slots is None:
            return False
        slots.append(slot)
        self._books.slots.keep(slot, key)
        self._slots += 1
        self._shrink(self.most_slots)
        return True

    def grown(self, key: TransferKey) -> list[int] | None:
        """The kept slots of an export, which are the caller's now; None where some were taken."""
        slots = self._growing.pop(key, None)
        if slots is not None:
            self._slots -= len(slots)
        return slots

    def give_up(self, key: TransferKey) -> None:
        """The export is not to be kept after all."""
        slots = self.grown(key)
        if slots:
            self._books.slots.evict(key, slots)

    # inspection

    def views(self) -> tuple[CachedTransfer, ...]:
        """Every entry, the least recently used first."""
        return tuple(
            CachedTransfer(
                transfer_id=entry.key.transfer_id,
                rank=entry.key.rank,
                layout=entry.layout,
                from_token=entry.from_token,
                to_token=entry.prefix.end_token,
                total_bytes=entry.what.total_bytes,
                slots=len(entry.slots),
                readers=entry.readers,
            )
            for entry in self._all
        )

    def check_readers(self, reading: Iterable[Entry]) -> None:
        """Raise InvariantError unless these, once for each reader, are all that is read."""
        readers = Counter(entry.key for entry in reading)
        for entry in self._all:
            if entry.readers != readers[entry.key]:
                raise InvariantError(f"cached {entry.key} has {entry.readers} readers")

    def check_integrity(self) -> None:
        """Raise InvariantError where entries, names and slots contradict each other."""
        slots = self._books.slots
        self._entries.check_integrity()
        for entry in self._all:
            found = slots.held_by(entry.key) if entry.readers else slots.cached_by(entry.key)
            if sorted(entry.slots) != found:
                raise InvariantError(f"cached {entry.key} does not hold the slots it thinks")
        for key, entry in self.unwritten.items():
            if self._entries.get(key) is not entry:
                raise InvariantError(f"{key} is to be written and not cached")
        grown = sum(map(len, self._growing.values()))
        total = sum(len(entry.slots) for entry in self._all) + grown
        read = sum(len(entry.slots) for entry in self._all if entry.readers)
        if read != self.pinned_slots:
            raise InvariantError(f"{read} slots are read, {self.pinned_slots} counted")
        unread = total - read
        if total != self._slots or unread != slots.counts().cached:
            raise InvariantError(f"{total} slots are cached, {self._slots} counted")
        if total > self.most_slots + self.pinned_slots:
            raise InvariantError(f"{total} slots are cached of {self.most_slots}")

    @property
    def _all(self) -> list[Entry]:
        return [*self._entries, *self._leaving.values()]

    def _worth(self, entry: Entry) -> bool:
        slots, count = self._books.slots, len(entry.slots)
        readable = slots.slot_count - slots.export_slots
        fits = 0 < count <= min(self.most_slots, readable) and self.room_to_read(count)
        # A peer chooses its epochs, and may know ours: two of one key could not be told apart.
        known = any(place.get(entry.key) for place in (self._entries, self._leaving, self._disk))
        if not fits or known or entry.naming != self._books.naming:
            return False
        other = self._entries.holding(entry.what)
        if other is not None:
            self.use(other)
        return other is None

    def _add(self, entry: Entry) -> None:
        self._entries.add(entry)
        self._disk.use(entry.key)

    def _shrink(self, most_slots: int, *, spare: Entry | None = None) -> None:
        """Evict until no more are cached, or none is left that may go."""
        while self._slots > most_slots:
            may_go = (e for e in self._entries if not e.readers and e is not spare)
            entry = next(may_go, None)
            if entry is None:
                break
            self._evict(entry)
        if self._slots <= most_slots:
            return
        for key in list(self._growing):
            self.give_up(key)
            if self._slots <= most_slots:
                return

    def _reclaim(self, count: int) -> None:
        self._shrink(self._slots - count)

    def _free(self, entry: Entry) -> None:
        self._slots -= len(entry.slots)
        self._books.slots.evict(entry.key, entry.slots)
        self._books.counters.cache_evicted += 1

    def _evict(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self._free(entry)
        if self.unwritten.pop(entry.key, None) is not None:
            self._books.counters.spill_missed += 1
        below = self._disk.get(entry.key) is not None
        gone = announced(entry.what) if below else AnnounceEvicted(entry.key)
        self._books.effects.append(gone)
