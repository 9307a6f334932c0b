"""Where a received transfer's bytes lie."""

from __future__ import annotations

import pytest

from prfaas.core.errors import InvariantError
from prfaas.core.extents import Extent
from prfaas.pool.placement import Copy, Packing, flat_extents


def test_flat_extents_go_from_slot_to_slot() -> None:
    found = list(flat_extents((7, 2), 16, 10, 12))
    assert found == [Extent(10, 7 * 16 + 10, 6), Extent(16, 2 * 16, 6)]


@pytest.mark.parametrize(("flat", "length"), [(-1, 1), (0, 0), (5, -2)])
def test_flat_extents_of_no_range(flat: int, length: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        list(flat_extents((0,), 16, flat, length))


def test_flat_extents_end_with_the_slots() -> None:
    with pytest.raises(IndexError):
        list(flat_extents((0,), 16, 10, 7))


def test_gaps_are_filled_in_arena_order() -> None:
    packing = Packing(slots := [], 16)
    packing.adopt(3, [Extent(0, 3 * 16 + 4, 4)])
    packing.adopt(1, [Extent(4, 16, 10)])
    assert slots == [3, 1]
    copies = packing.pack([Extent(14, 5 * 16, 12)])
    assert copies == [Copy(80, 26, 6), Copy(86, 48, 4), Copy(90, 56, 2)]
    assert [extent.flat_offset for extent in packing.extents] == [0, 4, 14, 20, 24]
    packing.check_integrity(26)


def test_integrity_finds_shared_and_foreign_memory() -> None:
    packing = Packing([], 16)
    packing.adopt(0, [Extent(0, 0, 8), Extent(8, 7, 4)])
    with pytest.raises(InvariantError, match="share memory"):
        packing.check_integrity(12)
    packing = Packing([], 16)
    packing.adopt(0, [Extent(0, 12, 8)])
    with pytest.raises(InvariantError, match="outside the slots"):
        packing.check_integrity(8)
    with pytest.raises(InvariantError, match="differ"):
        packing.check_integrity(9)
