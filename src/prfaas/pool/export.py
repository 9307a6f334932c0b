"""One rank's export, and what an engine may say about one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent, merged
from prfaas.core.handoff import LONGEST_DEADLINE_S, TRANSFER_ID
from prfaas.core.prompt_digest import PROMPT_DIGEST
from prfaas.core.ranges import RangeSet
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.description import Description
from prfaas.pool.events import ExportBegun, SlotFilled
from prfaas.pool.lifecycle import ExportState
from prfaas.pool.records import Sent

MOST_RANGES = 1 << 14
"""That one export may have handed over, and is handing over: layers are some hundreds."""


@dataclass(eq=False, slots=True)
class Export:
    """One rank's transfer. ``waiting``: filled slots of a pending one."""

    connection: int
    offer: TransferOffer
    destination: str
    local: bool
    deadline: float
    record: Sent
    handed: RangeSet = field(default_factory=RangeSet)
    waiting: list[tuple[int, tuple[Extent, ...]]] = field(default_factory=list)
    engine_done: bool = False
    description: Description | None = None

    @property
    def key(self) -> TransferKey:
        """The name of this attempt."""
        return self.offer.key

    @property
    def over(self) -> bool:
        """Whether it has had its end."""
        return self.record.state in (ExportState.COMPLETE, ExportState.FAILED)

    def take_new(self, extents: Sequence[Extent]) -> tuple[Extent, ...]:
        """Record extents as handed over; returns the parts that were not before: what an engine
        hands over twice is sent once. Raises EngineError beyond the transfer's end, and where what
        was handed over has too many gaps."""
        total = self.offer.total_bytes
        if len(self.handed) + len(extents) > MOST_RANGES:
            raise EngineError(f"transfer {self.key.transfer_id} comes in too many pieces")
        for extent in extents:
            if extent.flat_offset + extent.length > total:
                raise EngineError(f"transfer {self.key.transfer_id} ends at {total}")
        new: list[Extent] = []
        for extent in extents:
            flat, _, length = extent
            for start, end in self.handed.add(flat, flat + length):
                new.append(extent if end - start == length else extent.part(start, end))
        return tuple(new)


def malformed(event: ExportBegun, longest_deadline_s: float = LONGEST_DEADLINE_S) -> str | None:
    """What is wrong with an export as such, or None."""
    if not TRANSFER_ID.match(event.transfer_id):
        return "a transfer id is 1 to 64 characters of A-Z a-z 0-9 _ -"
    if event.total_bytes <= 0:
        return "there is nothing to transfer"
    if not 0 <= event.from_token <= event.to_token:
        return f"tokens [{event.from_token}, {event.to_token}) are none"
    if not 0 < event.deadline_s <= longest_deadline_s:
        return f"deadline_s {event.deadline_s} is not in (0, {longest_deadline_s:g}]"
    if not PROMPT_DIGEST.match(event.prompt_digest):
        return "prompt_digest is not a digest of a prompt"
    return None


def checked_extents(event: SlotFilled, slot_bytes: int) -> list[Extent]:
    """A slot's extents, neighbours merged. Raises EngineError for one outside the slot, or that
    shares memory with another."""
    first, end = event.slot * slot_bytes, (event.slot + 1) * slot_bytes
    for extent in event.extents:
        flat, arena, length = extent
        if length <= 0 or flat < 0 or not first <= arena <= end - length:
            raise EngineError(f"{extent} lies outside slot {event.slot}")
    in_order = sorted(event.extents, key=lambda extent: extent.arena_offset)
    if any(one.arena_end > other.arena_offset for one, other in pairwise(in_order)):
        raise EngineError(f"extents in slot {event.slot} share memory")
    return merged(event.extents)
