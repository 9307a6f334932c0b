"""The order of what happens."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from prfaas.sim.clock import PRIORITY_ALARM, PRIORITY_FAULT, PRIORITY_WORK, Clock

entries = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0, 2.5]),
        st.sampled_from([PRIORITY_FAULT, PRIORITY_WORK, PRIORITY_ALARM]),
    ),
    max_size=30,
)


@given(entries)
def test_time_then_priority_then_the_order_they_were_set_in(
    wanted: list[tuple[float, int]],
) -> None:
    clock, ran = Clock(), []
    for number, (time, priority) in enumerate(wanted):
        clock.at(time, ran.append, (time, priority, number), priority)
    while clock.next_at < inf:
        before = clock.now
        clock.run_next()
        assert clock.now >= before
    assert ran == sorted((time, priority, n) for n, (time, priority) in enumerate(wanted))


def test_what_runs_may_set_what_runs_next() -> None:
    clock, ran = Clock(), []

    def again(left: int) -> None:
        ran.append(clock.now)
        if left:
            clock.at(clock.now + 1.5, again, left - 1)

    clock.at(2.0, again, 2)
    assert clock.next_at == 2.0
    while clock.next_at < inf:
        clock.run_next()
    assert ran == [2.0, 3.5, 5.0]
    assert clock.now == 5.0
