"""One rank's reception: memory for a transfer that arrives, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from prfaas.core.extents import Extent, merged
from prfaas.core.ranges import RangeSet
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.description import Description
from prfaas.pool.lifecycle import ReceptionState
from prfaas.pool.placement import Packing, flat_extents
from prfaas.pool.records import Received


@dataclass(eq=False, slots=True)
class Reception:
    """One transfer whose memory is here. ``packing``: of a local hand-off, where its bytes lie.
    ``stored``: what has come from the link (an export sees to it that no byte is handed over
    twice)."""

    offer: TransferOffer
    deadline: float
    record: Received
    reserved: int
    slots: list[int]
    packing: Packing | None
    written_by_link: bool
    stored: RangeSet = field(default_factory=RangeSet)
    copying: int = 0
    readers: int = 0
    description: Description | None = None
    """What it is of, if that is known: it is cached when it is over."""

    @property
    def key(self) -> TransferKey:
        """The name of this attempt."""
        return self.offer.key

    @property
    def whole(self) -> bool:
        """Every byte is here and nobody writes any more."""
        all_stored = self.record.bytes_stored == self.offer.total_bytes
        return all_stored and not self.written_by_link and not self.copying

    @property
    def reclaimable(self) -> bool:
        """Nobody wants it and nobody touches it."""
        touched = self.written_by_link or self.copying or self.readers
        return self.record.state is ReceptionState.FAILED and not touched

    @property
    def is_for_the_cache(self) -> bool:
        """Whether nobody is to import it: it is cached as soon as it is whole."""
        return not self.offer.readers and self.description is not None

    def extents(self, slot_bytes: int) -> list[Extent]:
        """Where the bytes of a whole one lie, in flat order."""
        if self.packing is not None:
            return merged(self.packing.extents)
        return merged(flat_extents(self.slots, slot_bytes, 0, self.offer.total_bytes))
