"""What is kept of the past is bounded, by number and by bytes, and is the newest."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from prfaas.page.rings import Ring, Samples, as_list


def test_a_ring_keeps_the_newest() -> None:
    ring = Ring(3, 1000)
    gone = [row for number in range(5) for row in ring.add(b"%d" % number)]
    assert ring.rows() == [b"2", b"3", b"4"]
    assert gone == [b"0", b"1"]


def test_a_ring_is_bounded_in_bytes() -> None:
    ring = Ring(1000, 100)
    for _ in range(50):
        ring.add(b"x" * 30)
    assert len(ring) == 3


def test_a_row_that_is_too_large_leaves_nothing_behind() -> None:
    ring = Ring(10, 10)
    ring.add(b"before")
    assert ring.add(b"x" * 11) == [b"x" * 11]
    assert ring.rows() == [b"before"]


@given(
    rows=st.lists(st.binary(min_size=1, max_size=12), max_size=60),
    most=st.integers(1, 8),
    most_bytes=st.integers(12, 40),
)
def test_what_is_kept_and_what_goes_are_all_in_their_order(
    rows: list[bytes], most: int, most_bytes: int
) -> None:
    ring = Ring(most, most_bytes, resident=True)
    gone = [old for row in rows for old in ring.add(row)]
    assert gone + ring.rows() == rows
    assert len(ring) <= most
    assert sum(map(len, ring.rows())) <= most_bytes
    assert not rows or ring.rows()[-1] == rows[-1]


def test_old_samples_are_thinned_out() -> None:
    samples = Samples(fine=10, every=5, coarse=4, most_bytes=1 << 20)
    for number in range(100):
        samples.add(b"%d" % number)
    numbers = [int(row) for row in samples.rows()]
    assert numbers[-10:] == list(range(90, 100))
    assert numbers[:-10] == [70, 75, 80, 85]


def test_samples_are_bounded_in_bytes() -> None:
    samples = Samples(fine=10_000, every=1, coarse=10_000, most_bytes=1000)
    for _ in range(1000):
        samples.add(b"x" * 20)
    assert sum(map(len, samples.rows())) <= 1000


def test_rows_become_a_list() -> None:
    assert json.loads(as_list([b'{"a":1}', b"2"])) == [{"a": 1}, 2]
    assert json.loads(as_list([])) == []
