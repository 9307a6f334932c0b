"""Cached prefixes that an operator wants to stay: system prompts that many requests begin with.

A pin holds an entry, and all that it stands on, as a reader would: they count in the share of
receptions, and nobody evicts them. What may be pinned is bounded, so that transfers keep most of
that share; one that could only be received where the pinned lies is refused at once, as one that is
larger than the share.
"""

from __future__ import annotations

from collections.abc import Iterator

from prfaas.core.errors import CapacityError, InvariantError
from prfaas.link.api import TransferKey
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache, Entry
from prfaas.pool.events import PrefixPinned, PrefixUnpinned
from prfaas.pool.slots import ArenaFull


class Pins:
    """All pins of one agent; they end with it.

    Args:
        most_slots: so many may be pinned.
    """

    def __init__(self, books: Books, cache: Cache, *, most_slots: int) -> None:
        self._books, self._cache, self.most_slots = books, cache, most_slots
        self._wanted: dict[str, list[Entry]] = {}
        """By the transfer that was named: what it pins, each entry once."""
        self._counts: dict[TransferKey, int] = {}
        """Of how many of them each entry is part."""

    def pinned(self, event: PrefixPinned) -> None:
        """Every rank's part. Raises CapacityError, and nothing has changed, where it is not cached
        or more is pinned than may be."""
        if event.transfer_id in self._wanted:
            return
        named = [e for e in self._cache if e.key.transfer_id == event.transfer_id]
        if not named:
            raise CapacityError(f"transfer {event.transfer_id} is not cached here")
        path = list({e.key: e for entry in named for e in self._cache.stands_on(entry)}.values())
        if any(entry.arriving for entry in path):
            raise CapacityError(f"transfer {event.transfer_id} is being read from disk: try again")
        fresh = [entry for entry in path if entry.key not in self._counts]
        slots = sum(len(entry.slots) for entry in fresh)
        if self.slots + slots > self.most_slots:
            raise CapacityError(
                f"{slots} slots more would be pinned, of {self.most_slots} that may be "
                f"{self.slots} are"
            )
        self._hold(fresh)
        self._wanted[event.transfer_id] = path
        for entry in path:
            self._counts[entry.key] = self._counts.get(entry.key, 0) + 1
        self._books.slots.pinned_for_good = self.slots

    def unpinned(self, event: PrefixUnpinned) -> None:
        """It is cached as others are. Harmless where it is not pinned."""
        for entry in self._wanted.pop(event.transfer_id, ()):
            self._counts[entry.key] -= 1
            if not self._counts[entry.key]:
                del self._counts[entry.key]
                self._books.slots.pinned_for_good -= len(entry.slots)
                self._cache.unpin(entry)

    def forget(self) -> None:
        """Names are others now: nobody would find what is pinned."""
        for name in list(self._wanted):
            self.unpinned(PrefixUnpinned(name))

    @property
    def slots(self) -> int:
        """Of all that is pinned."""
        return sum(len(entry.slots) for entry in self.reading())

    def reading(self) -> Iterator[Entry]:
        """What is pinned, each once."""
        found = {entry.key: entry for path in self._wanted.values() for entry in path}
        return iter(found.values())

    def names(self) -> frozenset[str]:
        """Transfers that were named."""
        return frozenset(self._wanted)

    def check_integrity(self) -> None:
        """Raise InvariantError where more is pinned than may be, or it is miscounted."""
        slots = self.slots
        if slots > self.most_slots or slots != self._books.slots.pinned_for_good:
            raise InvariantError(f"{slots} slots are pinned of {self.most_slots}")
        if {entry.key for entry in self.reading()} != set(self._counts):
            raise InvariantError("what is pinned and what is counted differ")

    def _hold(self, entries: list[Entry]) -> None:
        held: list[Entry] = []
        try:
            for entry in entries:
                self._cache.pin(entry)
                held.append(entry)
        except ArenaFull:
            for entry in held:
                self._cache.unpin(entry)
            raise
