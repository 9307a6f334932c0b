"""`RangeSet` against a plain set of integers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.errors import InvariantError
from prfaas.core.ranges import RangeSet

spans = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1]))


@given(st.lists(spans, max_size=30), spans)
def test_matches_a_plain_set(added: list[tuple[int, int]], probe: tuple[int, int]) -> None:
    ranges, model = RangeSet(), set[int]()
    for start, end in added:
        wanted = set(range(start, end))
        assert ranges.overlaps(start, end) == bool(model & wanted)
        new = ranges.add(start, end)
        assert {i for a, b in new for i in range(a, b)} == wanted - model
        model |= wanted
        ranges.check_integrity()
        assert {i for a, b in ranges for i in range(a, b)} == model
    assert ranges.total == len(model)
    assert ranges.covers(*probe) == (set(range(*probe)) <= model)
    assert ranges.overlaps(*probe) == bool(set(range(*probe)) & model)
    assert len(ranges) == sum(1 for n in model if n - 1 not in model)


@pytest.mark.parametrize(("start", "end"), [(3, 3), (4, 3), (-1, 2)])
def test_what_is_no_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="is no range"):
        RangeSet().add(start, end)


def test_a_wrong_count_is_found() -> None:
    ranges = RangeSet()
    ranges.add(0, 3)
    ranges.total = 4
    with pytest.raises(InvariantError, match="total 4 is wrong"):
        ranges.check_integrity()
