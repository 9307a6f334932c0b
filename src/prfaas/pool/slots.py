"""Who holds which slot of an agent's arena.

Theory of operation. The arena is cut in equal slots. A slot is

    free -> leased to an engine's connection -> queued (filled, an export holds it) -> free
                                                  |                                or cached
    free -> held by a reception -> cached         +-> held by a reception (local hand-off)

    cached (nobody reads it) -> free, at once, when anybody needs it
    cached -> held (a load reads it) -> cached

and there is one table of (state, holder): a slot has one of each at any time, and every step names
the holder it takes the slot from.

Why this cannot deadlock. Slots are counted in two shares that never borrow from each other:
``export_slots`` for leased and queued slots, the rest for receptions, which reserve every slot they
can need before their first byte: ceil(bytes / slot). (1) A reception waits for nobody's memory once
it is accepted, so accepted receptions always complete, or fail with their sender or deadline, and
are then imported, dropped or expire: the reception share always frees itself. (2) A queued slot
waits only for the receiving agent to accept and take it, which by (1) happens. So the wait-for
graph goes lease -> queued -> peer's reception -> import or deadline and has no cycle, also between
agents that send to each other. One wait is left that this does not forbid: the export share can
fill up with slots of transfers that no receiver has accepted yet, while an accepted one needs a
lease to go on. `pool.exports` breaks it by stopping the youngest transfers without an acknowledged
byte.

Cached slots belong to no share and delay nobody: whoever takes slots may have cached ones freed
(``reclaim``). What a load reads must stay for a while, so it counts in the share of receptions like
everything else that is read there, and a load for which that has no room is refused.

A local hand-off gives its filled slots to the reception without a copy. Sparsely filled slots
would break (1), because more than ceil(bytes / slot) of them come; so once a reception holds all
the slots it has reserved, the bytes of further ones are packed into the gaps of those it holds
(`pool.placement`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from enum import StrEnum

import msgspec

from prfaas.core.errors import CapacityError, EngineError, InvariantError
from prfaas.link.api import TransferKey

Holder = int | TransferKey | None
"""An engine's connection for a lease, a transfer for what is queued or held."""


class ArenaFull(CapacityError):
    """The arena has no room now; receptions end and free some."""


class TooLarge(CapacityError):
    """Larger than the reception share: it can never fit."""


class SlotState(StrEnum):
    """What a slot is in use for."""

    FREE = "free"
    LEASED = "leased"
    QUEUED = "queued"
    HELD = "held"
    CACHED = "cached"


class SlotCounts(msgspec.Struct, frozen=True):
    """Slots by state, and reception slots that are promised but not yet bound."""

    free: int
    leased: int
    queued: int
    held: int
    promised: int
    cached: int = 0
    """Of prefixes that nobody reads: as good as free."""


class Slots:
    """Every slot's state and holder.

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
        self._state = [SlotState.FREE] * slot_count
        self._holder: list[Holder] = [None] * slot_count
        self._number = dict.fromkeys(SlotState, 0) | {SlotState.FREE: slot_count}
        self._free = list(range(slot_count))
        self._reserved = 0
        self.pinned_for_good = 0
        """Of what is reserved: what does not come free by itself."""
        self.reclaim: Callable[[int], None] = lambda count: None
        """Frees so many cached slots, or all that there are."""

    # the share of exports

    def lease(self, connection: int, count: int) -> tuple[int, ...]:
        """Up to ``count`` slots for an engine to fill; none when the share is used up."""
        in_use = self._number[SlotState.LEASED] + self._number[SlotState.QUEUED]
        count = min(count, self.export_slots - in_use)
        return self._take(SlotState.LEASED, connection, count)

    def check_leased(self, connection: int, slots: Collection[int]) -> None:
        """Raises EngineError unless these slots, each once, are leased to the connection."""
        for slot in slots:
            known = 0 <= slot < self.slot_count and self._state[slot] is SlotState.LEASED
            if not known or self._holder[slot] != connection:
                raise EngineError(f"slot {slot} is not leased to this connection")
        if len(set(slots)) != len(slots):
            raise EngineError("a slot is named twice")

    def take_back(self, connection: int, slots: Iterable[int]) -> None:
        """Leased slots come back unused."""
        for slot in slots:
            self._set_free(slot, SlotState.LEASED, connection)

    def leased_to(self, connection: int) -> list[int]:
        """What a connection has been lent and has not handed over."""
        return self._held_as(SlotState.LEASED, connection)

    def queue(self, connection: int, slot: int, key: TransferKey) -> None:
        """A leased slot is filled with bytes of a transfer."""
        self._move(slot, SlotState.LEASED, connection, SlotState.QUEUED, key)

    def release(self, slot: int, key: TransferKey) -> None:
        """Nobody reads a queued slot any more."""
        self._set_free(slot, SlotState.QUEUED, key)

    def queued_transfers(self) -> set[Holder]:
        """Transfers whose filled slots are still in use."""
        every = zip(self._state, self._holder, strict=True)
        return {holder for state, holder in every if state is SlotState.QUEUED}

    # the share of receptions

    def reserve(self, total_bytes: int) -> int:
        """Promise the memory of a transfer; returns the number of slots.

        Raises TooLarge, or ArenaFull (worth another try later).
        """
        needed = -(-total_bytes // self.slot_bytes)
        share = self.slot_count - self.export_slots
        if share == 0:
            raise TooLarge("this agent's arena is for exports alone: no engine here decodes")
        if needed > share:
            raise TooLarge(
                f"transfer of {total_bytes} bytes needs {needed} arena slots; at most {share} are "
                "for receptions here: make the agent's arena larger"
            )
        if needed > share - self.pinned_for_good:
            raise TooLarge(
                f"transfer of {total_bytes} bytes needs {needed} arena slots; of {share} for "
                f"receptions {self.pinned_for_good} are pinned: unpin prefixes, or make the "
                "agent's arena larger"
            )
        if needed > share - self._reserved:
            raise ArenaFull(f"no {needed} arena slots free for receptions")
        self._reserved += needed
        return needed

    def hold(self, key: TransferKey, count: int) -> list[int]:
        """Bind free slots to a reception that has reserved them."""
        return list(self._take(SlotState.HELD, key, count))

    def adopt(self, slot: int, key: TransferKey) -> None:
        """A queued slot becomes memory of the same transfer's reception here."""
        self._move(slot, SlotState.QUEUED, key, SlotState.HELD, key)

    def end_reception(self, key: TransferKey, slots: Iterable[int], reserved: int) -> None:
        """Everything of a reception is free again."""
        for slot in slots:
            self._set_free(slot, SlotState.HELD, key)
        self._reserved -= reserved

    def holding(self) -> set[str]:
        """Ids of the transfers that hold slots as receptions."""
        every = zip(self._state, self._holder, strict=True)
        held = (holder for state, holder in every if state is SlotState.HELD)
        return {key.transfer_id for key in held if isinstance(key, TransferKey)}

    # the cache

    def cache(self, key: TransferKey, slots: Iterable[int], reserved: int) -> None:
        """Nobody reads these held slots any more, and their bytes are kept until somebody needs
        the memory. ``reserved``: what is given back of the share of receptions."""
        for slot in slots:
            self._move(slot, SlotState.HELD, key, SlotState.CACHED, key)
        self._reserved -= reserved

    def keep(self, slot: int, key: TransferKey) -> None:
        """The same of a queued slot."""
        self._move(slot, SlotState.QUEUED, key, SlotState.CACHED, key)

    def pin(self, key: TransferKey, slots: Collection[int]) -> None:
        """Cached slots are about to be read. Raises ArenaFull where receptions need the room."""
        if self._reserved + len(slots) > self.slot_count - self.export_slots:
            raise ArenaFull(f"no room to read {len(slots)} cached slots beside receptions")
        for slot in slots:
            self._move(slot, SlotState.CACHED, key, SlotState.HELD, key)
        self._reserved += len(slots)

    def evict(self, key: TransferKey, slots: Iterable[int]) -> None:
        """Cached slots are free."""
        for slot in slots:
            self._set_free(slot, SlotState.CACHED, key)

    # inspection

    def counts(self) -> SlotCounts:
        """How many slots are used for what."""
        held = self._number[SlotState.HELD]
        return SlotCounts(
            free=self._number[SlotState.FREE],
            leased=self._number[SlotState.LEASED],
            queued=self._number[SlotState.QUEUED],
            held=held,
            promised=self._reserved - held,
            cached=self._number[SlotState.CACHED],
        )

    def held_by(self, key: TransferKey) -> list[int]:
        """Slots that a reception holds."""
        return self._held_as(SlotState.HELD, key)

    def cached_by(self, key: TransferKey) -> list[int]:
        """Slots with cached bytes of a transfer."""
        return self._held_as(SlotState.CACHED, key)

    def check_integrity(self) -> None:
        """Raise InvariantError unless the counts are right and the shares are kept."""
        free = [s for s, state in enumerate(self._state) if state is SlotState.FREE]
        if sorted(self._free) != free or any(self._holder[slot] is not None for slot in free):
            raise InvariantError(f"free slots {free} are listed as {sorted(self._free)}")
        if any(self._state.count(state) != count for state, count in self._number.items()):
            raise InvariantError(f"slots are miscounted: {self._number}")
        counts = self.counts()
        if counts.leased + counts.queued > self.export_slots:
            raise InvariantError(f"export share of {self.export_slots} exceeded: {counts}")
        if counts.promised < 0 or self._reserved > self.slot_count - self.export_slots:
            raise InvariantError(f"reception share exceeded: {counts}")

    # the table

    def _take(self, state: SlotState, holder: Holder, count: int) -> tuple[int, ...]:
        if count > len(self._free):
            self.reclaim(count - len(self._free))
        slots = tuple(heapq.heappop(self._free) for _ in range(count))
        for slot in slots:
            self._move(slot, SlotState.FREE, None, state, holder)
        return slots

    def _set_free(self, slot: int, state: SlotState, holder: Holder) -> None:
        self._move(slot, state, holder, SlotState.FREE, None)
        heapq.heappush(self._free, slot)

    def _move(
        self, slot: int, state: SlotState, holder: Holder, to: SlotState, new_holder: Holder
    ) -> None:
        if self._state[slot] is not state or self._holder[slot] != holder:
            found = f"{self._state[slot]} by {self._holder[slot]}"
            raise InvariantError(f"slot {slot} is {found}, not {state} by {holder}")
        self._state[slot], self._holder[slot] = to, new_holder
        self._number[state] -= 1
        self._number[to] += 1

    def _held_as(self, state: SlotState, holder: Holder) -> list[int]:
        return [
            slot
            for slot, (found, by) in enumerate(zip(self._state, self._holder, strict=True))
            if found is state and by == holder
        ]
