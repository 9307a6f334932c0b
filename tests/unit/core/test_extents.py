"""The shape of a byte range."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.extents import Extent, merged


def test_a_part_lies_where_the_whole_says() -> None:
    assert Extent(100, 7, 50).part(110, 130) == Extent(110, 17, 20)
    assert (Extent(100, 7, 50).flat_end, Extent(100, 7, 50).arena_end) == (150, 57)


def test_only_neighbours_in_both_spaces_are_joined() -> None:
    apart = [Extent(0, 0, 4), Extent(4, 8, 4), Extent(12, 12, 4)]
    assert merged(apart) == apart
    assert merged([*apart, Extent(16, 16, 1)]) == [*apart[:2], Extent(12, 12, 5)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 3))))
def test_merging_keeps_every_byte_in_its_place(parts: list[tuple[int, int, int]]) -> None:
    def places(extents: list[Extent]) -> list[tuple[int, int]]:
        return [(flat + i, at + i) for flat, at, n in extents for i in range(n)]

    extents = [Extent(*part) for part in parts]
    assert places(merged(extents)) == places(extents)
