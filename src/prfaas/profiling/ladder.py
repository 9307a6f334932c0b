"""Which lengths and batches are tried, how often, and when there is no time for more.

Theory of operation. Points double, since times of prefill and of decode steps bend slowly. Each is
tried a few times, and the median counts: one try may meet a compilation or another process. What
the next point will take is known well enough from the last one, so a point is begun only if it fits
into what is left of the budget.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from statistics import median

TRIES = 3


def doubling(first: int, last: int) -> list[int]:
    """``first``, twice that, and so on, and ``last`` itself."""
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return [*found, last]


async def measured(
    points: Sequence[int],
    measure: Callable[[int], Awaitable[float]],
    *,
    budget_s: float,
    clock: Callable[[], float],
    on_point: Callable[[int, float], None],
    on_left: Callable[[int], None] = lambda _: None,
    growth: float = 2.0,
    ends_at: type[Exception] | tuple[()] = (),
) -> dict[int, float]:
    """Seconds of each point, the first ones first, as far as the budget goes; one point at least.

    Args:
        measure: takes a point, returns what it took in seconds.
        on_point: hears each point with its median.
        on_left: hears the first point for which there was no time.
        growth: how much longer than a point the next one may take.
        ends_at: raised by ``measure`` at a point that cannot be had: the ones before it count.
    """
    found: dict[int, float] = {}
    end = clock() + budget_s
    await measure(points[0])  # Warms up: the first request of all compiles, allocates, connects.
    took = 0.0
    for point in points:
        if found and clock() + took * growth > end:
            on_left(point)
            break
        tries: list[float] = []
        began = clock()
        try:
            while len(tries) < TRIES and (not tries or clock() + took < end):
                before = clock()
                tries.append(await measure(point))
                took = clock() - before
        except ends_at:
            if not found:
                raise
            break
        took = (clock() - began) / len(tries)
        found[point] = median(tries)
        on_point(point, found[point])
    return found
