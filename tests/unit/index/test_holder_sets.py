"""Sets of holders."""

from __future__ import annotations

from prfaas.index.holder_sets import EMPTY, HolderSets


def test_equal_sets_are_one_and_end_with_their_last_user() -> None:
    sets = HolderSets()
    number = sets.number_of(0b101)
    sets.use(number, 2)
    assert sets.number_of(0b101) == number != EMPTY
    sets.use(number, -1)
    assert sets.masks[number] == 0b101
    sets.use(number, -1)
    assert len(sets) == 1
    assert sets.number_of(0b11) == number  # The number is used again.


def test_a_member_is_taken_out_of_a_set_for_all_its_users() -> None:
    sets = HolderSets()
    both, one = sets.number_of(0b11), sets.number_of(0b01)
    sets.use(both, 1)
    sets.use(one, 1)
    assert not sets.forget(both, 0b10)
    assert sets.masks[both] == sets.masks[one] == 0b01
    assert sets.number_of(0b01) == one
    assert sets.forget(one, 0b01)
    assert sets.number_of(0b01) not in (one, EMPTY)
    sets.use(one, -1)
    assert sets.masks[both] == 0b01


def test_what_sets_take_is_known_and_bounded() -> None:
    sets = HolderSets(most_bytes=1000)
    assert sets.has_room(0)
    wide = 1 << 4000
    one = sets.number_of(wide)
    sets.use(one, 2)
    assert sets.bytes > 500
    assert sets.has_room(wide)
    assert not sets.has_room(wide | 1)
    sets.forget(one, wide)
    assert sets.has_room(3)
    sets.use(one, -2)
    assert sets.bytes == 0
