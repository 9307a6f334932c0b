"""Cached prefixes: transfers that are over, kept where they lie until somebody needs the memory.

Theory of operation. An *entry* is one rank's part of a transfer of tokens [a, b) of a prompt: for
each KV group the blocks that it carried, and the recurrent states at b's last block end. It is
found by the names of its prefix (`core.prefixes`), under the fingerprint of the layout its pages
have. Entries of one prompt follow each other: one that begins at token a is of use where others, or
the engine's own cache, cover the tokens before a.

Eviction is least recently used, entry by entry. Using an entry uses all those it stands on too, and
those count as used *after* it: so an early block, which serves more prompts, outlives the later
ones, and a state goes before the blocks without which it is worthless. What a load reads is never
evicted. Anything else is, at once, when slots are needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prfaas.core.errors import InvariantError
from prfaas.core.extents import Extent
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferKey
from prfaas.pool.books import Books, CachedTransfer
from prfaas.pool.effects import AnnounceCached, AnnounceEvicted


@dataclass(eq=False, slots=True)
class Entry:
    """See the module. ``to_token`` is where the transfer ended, ``prefix`` its whole blocks;
    ``extents`` cover all of its bytes in flat order."""

    key: TransferKey
    layout: str
    prefix: Prefix
    to_token: int
    extents: tuple[Extent, ...]
    slots: list[int]
    stands_at: int
    """The token from which an engine can go on by this entry's states and windows; 0: none."""
    needs_state: bool
    """Whether an engine goes on from there alone, and from no other block's end."""
    readers: int = 0

    @property
    def from_token(self) -> int:
        """Its first."""
        return self.prefix.from_token

    @property
    def announcement(self) -> AnnounceCached:
        """That it can be loaded."""
        stands_at = self.stands_at if self.needs_state else None
        return AnnounceCached(self.key, self.layout, self.prefix, stands_at)

    def resumes_at(self, token: int) -> bool:
        """Whether an engine can go on from this block's end, by what is in here of states and
        windows."""
        return not self.needs_state or token == self.stands_at


class Cache:
    """Every entry, the least recently used first.

    Args:
        most_slots: how many may be cached; 0: nothing is kept.
    """

    def __init__(self, books: Books, *, most_slots: int) -> None:
        self._books, self.most_slots = books, most_slots
        self._entries: OrderedDict[TransferKey, Entry] = OrderedDict()
        self._named: dict[tuple[str, bytes], list[Entry]] = {}
        self._growing: dict[TransferKey, list[int]] = {}
        """Slots of exports that have been sent, and will be an entry when all have."""
        self._slots = 0
        """Of all entries and of what grows."""
        books.slots.reclaim = self._reclaim

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    @property
    def pinned_slots(self) -> int:
        """Of entries that are read."""
        return sum(len(entry.slots) for entry in self._entries.values() if entry.readers)

    def named(self, layout: str, name: bytes) -> list[Entry]:
        """Entries that hold the block after which a prefix has this name; those that reach
        furthest back first."""
        return sorted(self._named.get((layout, name), ()), key=lambda entry: entry.from_token)

    def take(self, entry: Entry) -> bool:
        """Keep a transfer whose slots are cached now. False, and they are free again, where it is
        not worth it, or there is no room."""
        if not self._worth(entry):
            self._books.slots.evict(entry.key, entry.slots)
            return False
        for other in self._replaced_by(entry):
            self._evict(other)
        self._slots += len(entry.slots)
        self._entries[entry.key] = entry
        for name in entry.prefix.digests:
            self._named.setdefault((entry.layout, name), []).append(entry)
        self._books.counters.cache_stored += 1
        self._books.effects.append(entry.announcement)
        self.use(entry)
        self._shrink(self.most_slots, spare=entry)
        return True

    def use(self, entry: Entry) -> None:
        """It serves a prompt, and so do those that it stands on."""
        for current in self.stands_on(entry):
            self._entries.move_to_end(current.key)

    def stands_on(self, entry: Entry) -> Iterator[Entry]:
        """The entry, and those that cover the tokens before it, the last first."""
        current: Entry | None = entry
        while current is not None:
            yield current
            before = self.named(current.layout, current.prefix.parent)
            current = next((e for e in before if e.from_token < current.from_token), None)

    def pin(self, entry: Entry) -> None:
        """A load begins to read. Raises ArenaFull."""
        if not entry.readers:
            self._books.slots.pin(entry.key, entry.slots)
        entry.readers += 1

    def unpin(self, entry: Entry) -> None:
        """A load has ended."""
        entry.readers -= 1
        if not entry.readers:
            self._books.slots.cache(entry.key, entry.slots, len(entry.slots))
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
                total_bytes=sum(extent.length for extent in entry.extents),
                slots=len(entry.slots),
                readers=entry.readers,
            )
            for entry in self._entries.values()
        )

    def check_readers(self, reading: Iterable[Entry]) -> None:
        """Raise InvariantError unless these, once for each reader, are all that is read."""
        readers = Counter(entry.key for entry in reading)
        for entry in self._entries.values():
            if entry.readers != readers[entry.key]:
                raise InvariantError(f"cached {entry.key} has {entry.readers} readers")

    def check_integrity(self) -> None:
        """Raise InvariantError where entries, names and slots contradict each other."""
        slots = self._books.slots
        for key, entry in self._entries.items():
            found = slots.held_by(key) if entry.readers else slots.cached_by(key)
            if sorted(entry.slots) != found:
                raise InvariantError(f"cached {key} does not hold the slots it thinks")
            for name in entry.prefix.digests:
                if entry not in self._named[entry.layout, name]:
                    raise InvariantError(f"cached {key} is not found by its name")
        named = sum(len(entries) for entries in self._named.values())
        if named != sum(len(entry.prefix.digests) for entry in self._entries.values()):
            raise InvariantError("a name leads to what is not cached")
        grown = sum(map(len, self._growing.values()))
        total = sum(len(entry.slots) for entry in self._entries.values()) + grown
        unread = total - self.pinned_slots
        if total != self._slots or unread != slots.counts().cached:
            raise InvariantError(f"{total} slots are cached, {self._slots} counted")
        if total > self.most_slots + self.pinned_slots:
            raise InvariantError(f"{total} slots are cached of {self.most_slots}")

    def _worth(self, entry: Entry) -> bool:
        slots = self._books.slots
        readable = slots.slot_count - slots.export_slots
        if not 0 < len(entry.slots) <= min(self.most_slots, readable):
            return False
        pinned = sum(len(e.slots) for e in self._entries.values() if e.readers)
        if pinned + len(entry.slots) > self.most_slots:
            return False
        for other in self.named(entry.layout, entry.prefix.digests[-1]):
            covers = other.from_token <= entry.from_token
            if covers and other.resumes_at(entry.prefix.end_token):
                self.use(other)
                return False
        return True

    def _replaced_by(self, entry: Entry) -> list[Entry]:
        """Entries of which this one holds everything."""
        last: dict[TransferKey, Entry] = {}
        for name in entry.prefix.digests:
            for other in self._named.get((entry.layout, name), ()):
                ends = other.prefix.digests[-1] == name and other.from_token >= entry.from_token
                if ends and entry.resumes_at(other.stands_at) and not other.readers:
                    last[other.key] = other
        return list(last.values())

    def _shrink(self, most_slots: int, *, spare: Entry | None = None) -> None:
        """Evict until no more are cached, or none is left that may go."""
        if self._slots <= most_slots:
            return
        for entry in list(self._entries.values()):
            if not entry.readers and entry is not spare:
                self._evict(entry)
                if self._slots <= most_slots:
                    return
        for key in list(self._growing):
            self.give_up(key)
            if self._slots <= most_slots:
                return

    def _reclaim(self, count: int) -> None:
        self._shrink(self._slots - count)

    def _evict(self, entry: Entry) -> None:
        del self._entries[entry.key]
        for name in entry.prefix.digests:
            place = (entry.layout, name)
            self._named[place].remove(entry)
            if not self._named[place]:
                del self._named[place]
        self._slots -= len(entry.slots)
        self._books.slots.evict(entry.key, entry.slots)
        self._books.counters.cache_evicted += 1
        self._books.effects.append(AnnounceEvicted(entry.key))
