"""The heap of timers, on its own."""

from __future__ import annotations

from random import Random

import pytest

from prfaas.scheduler.timers import TimerKind, Timers


@pytest.mark.parametrize("share_over", [0.0, 0.5, 0.99])
def test_what_means_something_comes_in_order_and_the_rest_is_not_kept(share_over: float) -> None:
    random = Random(1)
    over: set[str | tuple[str, str]] = set()
    timers = Timers(lambda timer: timer.key in over)
    wanted: list[tuple[float, str]] = []
    for number in range(2000):
        at, key = random.random(), str(number)
        timers.add(at, TimerKind.DEADLINE, key)
        if random.random() < share_over:
            over.add(key)
        else:
            wanted.append((at, key))
        assert len(timers._heap) <= max(64, 2 * len(wanted)) + 1
    due = []
    while (timer := timers.pop_due(1.0)) is not None:
        if timer.key not in over:
            due.append((timer.at, timer.key))
    assert due == sorted(wanted)
