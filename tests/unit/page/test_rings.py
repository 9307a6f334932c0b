"""What is kept of the past is bounded, by number and by bytes, and is the newest."""

from __future__ import annotations

import json

from prfaas.page.rings import Ring, Samples, as_list


def test_a_ring_keeps_the_newest() -> None:
    ring = Ring(3, 1000)
    for number in range(5):
        ring.add(b"%d" % number)
    assert ring.rows() == [b"2", b"3", b"4"]
    assert ring.bytes == 3


def test_a_ring_is_bounded_in_bytes() -> None:
    ring = Ring(1000, 100)
    for _ in range(50):
        ring.add(b"x" * 30)
    assert len(ring) == 3
    assert ring.bytes <= 100


def test_a_row_that_is_too_large_leaves_nothing_behind() -> None:
    ring = Ring(10, 10)
    ring.add(b"x" * 11)
    assert not ring.rows()
    assert ring.bytes == 0


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
