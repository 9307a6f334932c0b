"""Points, tries and time."""

from __future__ import annotations

import pytest

from prfaas.profiling.ladder import TRIES, doubling, measured


def test_points_double_up_to_the_last() -> None:
    assert doubling(128, 1000) == [128, 256, 512, 1000]
    assert doubling(1, 8) == [1, 2, 4, 8]
    assert doubling(32, 32) == [32]
    assert doubling(64, 32) == [32]


class Bench:
    """What is measured takes as long as the point says, on a clock of its own."""

    def __init__(self, seconds: dict[int, list[float]]) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.asked: list[int] = []
        self.left: list[int] = []

    async def measure(self, point: int) -> float:
        self.asked.append(point)
        found = self.seconds[point]
        took = found[(self.asked.count(point) - 1) % len(found)]
        self.now += took
        return took

    async def run(self, budget_s: float) -> dict[int, float]:
        return await measured(
            list(self.seconds),
            self.measure,
            budget_s=budget_s,
            clock=lambda: self.now,
            on_point=lambda point, seconds: None,
            on_left=self.left.append,
            growth=4.0,
        )


async def test_the_median_of_a_few_tries_counts_and_the_first_of_all_warms_up() -> None:
    bench = Bench({1: [9.0, 1.0, 5.0, 1.2], 2: [2.0]})
    assert await bench.run(1000.0) == {1: 1.2, 2: 2.0}
    assert bench.left == []
    assert bench.asked.count(1) == TRIES + 1


async def test_what_would_not_fit_is_not_begun() -> None:
    bench = Bench({1: [1.0], 2: [2.0], 4: [8.0], 8: [30.0]})
    assert list(await bench.run(20.0)) == [1, 2, 4]
    assert bench.left == [8]
    bench = Bench({1: [1.0], 2: [2.0], 4: [8.0], 8: [30.0]})
    assert list(await bench.run(15.0)) == [1, 2]
    assert bench.left == [4]


async def test_a_point_that_cannot_be_had_ends_it() -> None:
    bench = Bench({1: [1.0], 2: [1.0], 4: [1.0]})

    async def up_to_two(point: int) -> float:
        if point > limit:
            raise LookupError
        return await bench.measure(point)

    async def run() -> dict[int, float]:
        return await measured(
            [1, 2, 4],
            up_to_two,
            budget_s=100.0,
            clock=lambda: bench.now,
            on_point=lambda point, seconds: None,
            ends_at=LookupError,
        )

    limit = 2
    assert await run() == {1: 1.0, 2: 1.0}
    limit = 0
    with pytest.raises(LookupError):
        await run()


async def test_one_point_is_measured_whatever_the_time() -> None:
    bench = Bench({1: [50.0], 2: [90.0]})
    assert await bench.run(1.0) == {1: 50.0}
    assert bench.asked == [1, 1]
