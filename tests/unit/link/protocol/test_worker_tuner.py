"""How many link workers pay."""

from __future__ import annotations

from prfaas.link.protocol.worker_tuner import Load, WorkerTuner

BUSY = Load(goodput_bytes_per_s=1e9, own_cores=1.0, worker_cores=0.0, idle_cores=10.0)


def carried(count: int, goodput: float, *, busy: float = 0.9, idle: float = 6.0) -> Load:
    return Load(goodput, own_cores=0.2, worker_cores=count * busy, idle_cores=idle)


def test_none_without_need() -> None:
    tuner = WorkerTuner(fixed=None, most=8)
    for second in range(100):
        tuner.observe(Load(1e9, 0.5, 0.0, 10.0), now=second)  # the interpreter keeps up
        tuner.observe(Load(1e9, 1.0, 0.0, 1.0), now=second)  # no core is idle
        tuner.observe(Load(1e7, 1.0, 0.0, 10.0), now=second)  # it is not the link that is busy
    assert tuner.count == 0


def test_they_grow_while_goodput_does() -> None:
    tuner = WorkerTuner(fixed=None, most=8)
    seen = []
    now, goodput = 0.0, 1e9
    tuner.observe(BUSY, now=now)
    while len(seen) < 4:
        seen.append(tuner.count)
        goodput *= 1.5
        now += 10.0
        tuner.observe(carried(tuner.count, goodput), now=now)  # it pays
        tuner.observe(carried(tuner.count, goodput), now=now + 1.0)  # and still is not enough
    assert seen == [2, 3, 5, 8]
    tuner.observe(carried(8, goodput * 2), now=now + 10.0)
    tuner.observe(carried(8, goodput * 2), now=now + 11.0)
    assert tuner.count == 8, "no more than the most"


def test_what_does_not_pay_is_taken_back_and_not_tried_at_once() -> None:
    tuner = WorkerTuner(fixed=None, most=8)
    tuner.observe(BUSY, now=0.0)
    assert tuner.count == 2
    tuner.observe(carried(2, 1.01e9), now=10.0)
    assert tuner.count == 0
    tuner.observe(BUSY, now=20.0)
    assert tuner.count == 0
    tuner.observe(BUSY, now=80.0)
    assert tuner.count == 2


def test_one_after_the_other_ends_where_they_have_nothing_to_do() -> None:
    tuner = WorkerTuner(fixed=None, most=8)
    tuner.observe(BUSY, now=0.0)
    tuner.observe(carried(2, 2e9, busy=0.5), now=10.0)
    counts = []
    for second in range(11, 200):
        tuner.observe(carried(2, 0.0, busy=0.0), now=float(second))
        counts.append(tuner.count)
    assert sorted(set(counts), reverse=True) == [2, 1, 0]


def test_a_fixed_number_stays() -> None:
    tuner = WorkerTuner(fixed=3, most=8)
    tuner.observe(BUSY, now=0.0)
    tuner.cannot(now=1.0)
    assert tuner.count == 3


def test_none_where_none_can_be_started() -> None:
    tuner = WorkerTuner(fixed=None, most=8)
    tuner.observe(BUSY, now=0.0)
    tuner.cannot(now=1.0)
    tuner.observe(BUSY, now=2.0)
    assert tuner.count == 0
