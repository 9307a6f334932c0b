"""Slots of exports that the link reads, and what becomes of them: cached prefixes, or nothing.

An export outlives its engine's part of it, and its slots outlast both: the link lets go of them
one by one, in any order, before or after it reports the end. So what is to be kept is noted here,
by the attempt's key, until the end is known and the last slot is back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prfaas.core.errors import InvariantError
from prfaas.core.extents import Extent, merged
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache
from prfaas.pool.description import Description


@dataclass(slots=True)
class _Kept:
    offer: TransferOffer
    description: Description
    extents: list[Extent] = field(default_factory=list)
    with_link: int = 0
    """Slots that the link still reads."""
    complete: bool = False


class SentSlots:
    """The slots of one agent's exports that are being sent."""

    def __init__(self, books: Books, cache: Cache) -> None:
        self._books, self._cache = books, cache
        self._kept: dict[TransferKey, _Kept] = {}
        self._unreleased: dict[int, int] = {}
        """Extents the link has not released, by slot."""

    def __len__(self) -> int:
        """Slots that the link reads."""
        return len(self._unreleased)

    def describe(self, offer: TransferOffer, description: Description) -> None:
        """Nothing of the export was handed over yet. One that does not fit is not kept."""
        slots = -(-offer.total_bytes // self._books.slots.slot_bytes)  # or more, if sparsely filled
        if slots <= self._cache.most_slots and description.reads(offer):
            self._kept[offer.key] = _Kept(offer, description)
            self._cache.grow(offer.key)

    def add(self, key: TransferKey, slot: int, extents: tuple[Extent, ...]) -> None:
        """A slot goes to the link with these bytes, which were not handed over before."""
        self._unreleased[slot] = len(extents)
        kept = self._kept.get(key)
        if kept is not None:
            kept.extents += extents
            kept.with_link += 1

    def released(self, key: TransferKey, slot: int) -> bool:
        """The link reads one extent of the slot no more. True where that was the last: the slot is
        cached, or free."""
        left = self._unreleased.get(slot, 0) - 1
        if left < 0:
            raise InvariantError(f"slot {slot} was released more often than it was sent")
        if left:
            self._unreleased[slot] = left
            return False
        del self._unreleased[slot]
        kept = self._kept.get(key)
        if kept is None or not self._cache.keep(key, slot):
            self._books.slots.release(slot, key)
        if kept is not None:
            kept.with_link -= 1
            self._end_if_whole(key, kept)
        return True

    def ended(self, key: TransferKey, *, complete: bool) -> None:
        """The receiver has everything, or never will."""
        kept = self._kept.get(key)
        if kept is None:
            return
        if complete:
            kept.complete = True
            self._end_if_whole(key, kept)
        else:
            del self._kept[key]
            self._cache.give_up(key)

    def _end_if_whole(self, key: TransferKey, kept: _Kept) -> None:
        if not kept.complete or kept.with_link:
            return
        del self._kept[key]
        slots = self._cache.grown(key)
        if slots is not None:
            self._cache.take(
                kept.description.entry(kept.offer, merged(sorted(kept.extents)), slots)
            )
