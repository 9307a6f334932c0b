"""Open addressing over a column."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prfaas.index.open_table import OpenTable

ROWS = 24


@given(
    st.lists(st.integers(0, 6), min_size=ROWS, max_size=ROWS),
    st.lists(st.lists(st.integers(0, ROWS - 1), unique=True, max_size=6), max_size=12),
)
def test_rows_are_found_as_long_as_they_are_in(values: list[int], rounds: list[list[int]]) -> None:
    """Values collide on purpose: several rows have one, and all are near each other."""
    column = np.array(values, np.uint64)
    table = OpenTable(column, ROWS)
    inside: set[int] = set()
    for number, rows in enumerate(rounds):
        fresh = [row for row in rows if row not in inside]
        for row in set(rows) & inside:
            table.remove(row)
        if number % 2:
            table.add(np.array(fresh, np.int64))
        else:
            for row in fresh:
                table.add_one(row)
        inside = inside - set(rows) | set(fresh)
        found = table.find(np.arange(8, dtype=np.uint64)).tolist()
        for value, row in enumerate(found):
            assert table.find_one(value) == row
            held = {row for row in inside if values[row] == value}
            assert row in held if held else row == -1
