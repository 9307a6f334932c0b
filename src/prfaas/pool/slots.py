"""The hybrid cache pool's bookkeeping: who holds which slot of an agent's arena.

Theory of operation. The arena is cut in equal slots. A slot is

    free -> leased to an engine's connection -> queued (filled, a transfer holds it) -> free
                                                  |
    free -> held by a reception                   +-> held by a reception (local hand-off)

A *reception* is the memory of one transfer that this agent receives, from another agent or from
an engine beside it. It reserves every slot it can need before its first byte: ceil(bytes / slot).

Why this cannot deadlock. Slots are counted in two shares that never borrow from each other:
``export_slots`` for leased and queued slots, the rest for receptions. (1) A reception waits for
nobody's memory once it is accepted, so accepted receptions always complete, or fail with their
sender or deadline, and are then imported, dropped or expire: the reception share always frees
itself. (2) A queued slot waits only for the receiving agent to accept and take it, which by (1)
happens. So the wait-for graph goes lease -> queued -> peer's reception -> import or deadline and
has no cycle, also between agents that send to each other. One wait is left that this does not
forbid: the export share can fill up with slots of transfers that no receiver has accepted yet,
while an accepted one needs a lease to go on. The caller breaks it by stopping the youngest transfer
without an acknowledged byte (see ``agent.exports``).

A local hand-off gives its filled slots to the reception without a copy. Sparsely filled slots
would break (1), because more than ceil(bytes / slot) of them come; so once a reception holds all
the slots it has reserved, the bytes of further ones are packed into the gaps of those it holds.
The gaps are always large enough, as the reserved slots together hold at least the transfer.

Reclaiming. A reception is reclaimed when it is dropped or its deadline passes, but never while the
link still writes to it or an import reads from it: then it lingers, unusable for new imports,
until the last of them lets go.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from prfaas.core.errors import CapacityError, InvariantError
from prfaas.pool.reception import Copy, Reception, Span

Owner = int
"""A connection of an engine."""
Key = TypeVar("Key", bound=Hashable)
"""Names a transfer."""


class ArenaFull(CapacityError):
    """No room now; receptions end and free some."""


class TooLarge(CapacityError):
    """Larger than the reception share: it can never fit."""


class PoolCounts(msgspec.Struct, frozen=True):
    """Slots by state, and reception slots that are promised but not yet bound."""

    free: int
    leased: int
    queued: int
    held: int
    promised: int


class Pool(Generic[Key]):
    """Not thread-safe, no I/O.

    Args:
        slot_bytes: size of a slot.
        slot_count: number of slots.
        export_slots: how many may be leased or queued at a time; the rest is for receptions.
    """

    def __init__(self, *, slot_bytes: int, slot_count: int, export_slots: int) -> None:
        if slot_bytes <= 0 or not 0 <= export_slots <= slot_count:
            raise ValueError(f"{export_slots} export slots of {slot_count} of {slot_bytes} bytes")
        self.slot_bytes, self.slot_count = slot_bytes, slot_count
        self.export_slots = export_slots
        self._free = list(range(slot_count))
        self._leased: dict[int, Owner] = {}
        self._queued: set[int] = set()
        self.receptions: dict[Key, Reception] = {}

    # export share

    def lease(self, owner: Owner, count: int) -> list[int]:
        """Up to ``count`` slots for ``owner`` to fill; empty when the export share is used up."""
        count = min(count, self.export_slots - len(self._leased) - len(self._queued))
        slots = [heapq.heappop(self._free) for _ in range(count)]
        self._leased.update(dict.fromkeys(slots, owner))
        return slots

    def return_slots(self, owner: Owner, slots: Iterable[int]) -> None:
        """Leased slots come back unused. Raises KeyError for one not leased to ``owner``."""
        for slot in slots:
            self._take_lease(owner, slot)
            heapq.heappush(self._free, slot)

    def queue(self, owner: Owner, slot: int) -> None:
        """A leased slot is filled. Raises KeyError if it is not leased to ``owner``."""
        self._take_lease(owner, slot)
        self._queued.add(slot)

    def release(self, slot: int) -> None:
        """Nobody reads a queued slot any more. Raises KeyError if it is not queued."""
        self._queued.remove(slot)
        heapq.heappush(self._free, slot)

    def owner_gone(self, owner: Owner) -> None:
        """Every lease ends with its connection."""
        self.return_slots(owner, [slot for slot, who in self._leased.items() if who == owner])

    def _take_lease(self, owner: Owner, slot: int) -> None:
        if self._leased.get(slot) != owner:
            raise KeyError(f"slot {slot} is not leased to this connection")
        del self._leased[slot]

    # reception share

    def reserve(self, key: Key, total_bytes: int, *, deadline: float, local: bool) -> Reception:
        """Promise the memory of a transfer; a remote one gets its slots at once.

        Raises TooLarge, ArenaFull (worth another try later), ValueError for a key in use.
        """
        if key in self.receptions:
            raise ValueError(f"reception {key} exists")
        needed = -(-total_bytes // self.slot_bytes)
        share = self.slot_count - self.export_slots
        if share == 0:
            raise TooLarge("this agent's arena is for exports alone: no engine here decodes")
        if needed > share:
            raise TooLarge(
                f"transfer of {total_bytes} bytes needs {needed} arena slots; at most {share} are "
                "for receptions here: make the agent's arena larger"
            )
        if needed > share - sum(r.reserved for r in self.receptions.values()):
            raise ArenaFull(f"no {needed} arena slots free for receptions")
        slots = [] if local else [heapq.heappop(self._free) for _ in range(needed)]
        reception = Reception(
            total_bytes=total_bytes,
            slot_bytes=self.slot_bytes,
            reserved=needed,
            deadline=deadline,
            written_by_link=not local,
            slots=slots,
        )
        self.receptions[key] = reception
        return reception

    def adopt(self, key: Key, slot: int, spans: Sequence[Span]) -> list[Copy]:
        """Hand a queued slot's bytes to a local reception; bytes it has already are left out.

        The returned copies must be made before anything else is asked of the pool: the slot they
        read is then free. Raises KeyError if the slot is not queued.
        """
        reception = self.receptions[key]
        new = reception.uncovered(spans)
        if new and len(reception.slots) < reception.reserved:
            self._queued.remove(slot)
            reception.adopt_slot(slot, new)
            return []
        self.release(slot)
        return reception.pack(new)

    def drop(self, key: Key, reason: str) -> None:
        """The reception is not wanted any more; its memory is reclaimed as soon as it may be."""
        reception = self.receptions.get(key)
        if reception is not None:
            reception.dropped = reception.dropped or reason
            self.reclaim(key)

    def expired(self, *, now: float) -> list[Key]:
        """Receptions past their deadline that are not dropped yet."""
        return [k for k, r in self.receptions.items() if r.deadline <= now and r.dropped is None]

    def reclaim(self, key: Key) -> bool:
        """Free a reception's memory if it is dropped and nobody touches it; True if it is gone."""
        reception = self.receptions.get(key)
        if reception is None:
            return True
        if not reception.reclaimable:
            return False
        del self.receptions[key]
        for slot in reception.slots:
            heapq.heappush(self._free, slot)
        return True

    # inspection

    def counts(self) -> PoolCounts:
        held = sum(len(r.slots) for r in self.receptions.values())
        reserved = sum(r.reserved for r in self.receptions.values())
        return PoolCounts(
            free=len(self._free),
            leased=len(self._leased),
            queued=len(self._queued),
            held=held,
            promised=reserved - held,
        )

    def check_integrity(self) -> None:
        """Raise InvariantError unless every slot has exactly one state and shares are kept."""
        held = [slot for r in self.receptions.values() for slot in r.slots]
        every = [*self._free, *self._leased, *self._queued, *held]
        if sorted(every) != list(range(self.slot_count)):
            raise InvariantError(f"slots lost or doubled: {sorted(every)} of {self.slot_count}")
        counts = self.counts()
        if counts.leased + counts.queued > self.export_slots:
            raise InvariantError(f"export share of {self.export_slots} exceeded: {counts}")
        if counts.held + counts.promised > self.slot_count - self.export_slots:
            raise InvariantError(f"reception share exceeded: {counts}")
        for reception in self.receptions.values():
            reception.check_integrity()
