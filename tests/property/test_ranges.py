"""`RangeSet` against a plain set of integers."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas.transfer.protocol.ranges import RangeSet

spans = st.tuples(st.integers(0, 60), st.integers(1, 12)).map(lambda s: (s[0], s[0] + s[1]))


@given(st.lists(spans, max_size=30), spans)
def test_matches_a_plain_set(added: list[tuple[int, int]], probe: tuple[int, int]) -> None:
    ranges, model = RangeSet(), set[int]()
    for start, end in added:
        overlap = bool(model & set(range(start, end)))
        assert ranges.overlaps(start, end) == overlap
        if not overlap:
            ranges.add(start, end)
            model |= set(range(start, end))
    assert ranges.total == len(model)
    assert ranges.covers(*probe) == (set(range(*probe)) <= model)
    assert len(ranges) == sum(1 for n in model if n - 1 not in model)
