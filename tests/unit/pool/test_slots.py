"""One owner per slot, and two shares that never borrow from each other."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError, InvariantError
from prfaas.link.api import TransferKey
from prfaas.pool.slots import ArenaFull, SlotCounts, Slots, TooLarge

KEY, OTHER = TransferKey("x", 0, 1), TransferKey("y", 0, 1)


@pytest.fixture
def slots() -> Slots:
    return Slots(slot_bytes=16, slot_count=10, export_slots=4)


def test_a_lease_becomes_a_reception_without_a_copy(slots: Slots) -> None:
    assert slots.lease(1, 2) == (0, 1)
    slots.queue(1, 1, KEY)
    assert slots.queued_transfers() == {KEY}
    assert slots.reserve(33) == 3
    slots.adopt(1, KEY)
    assert slots.counts() == SlotCounts(free=8, leased=1, queued=0, held=1, promised=2)
    assert (slots.leased_to(1), slots.held_by(KEY)) == ([0], [1])
    slots.end_reception(KEY, [1], 3)
    slots.take_back(1, [0])
    slots.check_integrity()
    assert slots.counts().free == 10


def test_shares_do_not_borrow(slots: Slots) -> None:
    assert len(slots.lease(1, 9)) == 4
    assert slots.lease(2, 1) == ()
    assert slots.reserve(6 * 16) == 6
    with pytest.raises(ArenaFull):
        slots.reserve(1)
    assert len(slots.hold(KEY, 6)) == 6
    slots.check_integrity()


def test_what_can_never_fit_is_told_apart(slots: Slots) -> None:
    with pytest.raises(TooLarge, match="needs 7 arena slots; at most 6"):
        slots.reserve(6 * 16 + 1)
    with pytest.raises(TooLarge, match="for exports alone"):
        Slots(slot_bytes=16, slot_count=4, export_slots=4).reserve(1)


@pytest.mark.parametrize("named", [(5,), (-1,), (10,), (0, 0), (0, 2)])
def test_an_engine_names_slots_that_are_not_its_own(slots: Slots, named: tuple[int, ...]) -> None:
    slots.lease(1, 2)
    slots.lease(2, 1)
    with pytest.raises(EngineError):
        slots.check_leased(1, named)
    slots.check_leased(1, (1, 0))


def test_a_step_that_names_the_wrong_owner_is_a_bug(slots: Slots) -> None:
    slots.lease(1, 1)
    for wrong in (
        lambda: slots.queue(2, 0, KEY),
        lambda: slots.release(0, KEY),
        lambda: slots.adopt(0, KEY),
    ):
        with pytest.raises(InvariantError, match="slot 0 is leased by 1"):
            wrong()
    slots.queue(1, 0, KEY)
    with pytest.raises(InvariantError):
        slots.release(0, OTHER)
    slots.check_integrity()


@pytest.mark.parametrize(("slot_bytes", "export_slots"), [(0, 4), (16, 11), (16, -1)])
def test_impossible_sizes(slot_bytes: int, export_slots: int) -> None:
    with pytest.raises(ValueError, match="export slots of 10"):
        Slots(slot_bytes=slot_bytes, slot_count=10, export_slots=export_slots)
