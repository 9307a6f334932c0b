"""The engine against hand-computed times."""

from __future__ import annotations

import pytest

from prfaas.sim.clock import Clock
from prfaas.sim.engine import Engine, Task


class Bench:
    """Runs one engine; a task's ``job`` is (name, prefill seconds)."""

    def __init__(self, *, step: float = 0.1, batch: int = 4, kv: float = 1e9) -> None:
        self.clock = Clock()
        self.log: list[tuple[str, str, float]] = []
        self.engine = Engine(
            "e",
            self.clock,
            self,
            max_batch=batch,
            step_seconds=lambda b: step,
            kv_tokens=kv,
            prefill_floor=0.25,
        )

    def submit(self, name: str, *, prefill: float = 0.0, output: int = 0, kv: int = 1) -> Task:
        task = Task((name, prefill), 1, prefill=prefill > 0, output=output, kv_tokens=kv)
        self.engine.submit(task)
        return task

    def prefill_seconds(self, engine: Engine, task: Task) -> float:
        return task.job[1]  # type: ignore[index]

    def _note(self, what: str, task: Task) -> None:
        self.log.append((what, task.job[0], round(self.clock.now, 6)))  # type: ignore[index]

    def prefill_done(self, engine: Engine, task: Task) -> None:
        self._note("prefilled", task)

    def first_token(self, engine: Engine, task: Task) -> None:
        self._note("first", task)

    def decode_done(self, engine: Engine, task: Task) -> None:
        self._note("done", task)

    def run(self) -> list[tuple[str, str, float]]:
        while self.clock.next_at < 1e9:
            self.clock.run_next()
        return self.log


def test_prompts_are_prefilled_first_come_first_served() -> None:
    bench = Bench()
    bench.submit("a", prefill=2.0)
    bench.submit("b", prefill=1.0)
    assert bench.run() == [("prefilled", "a", 2.0), ("prefilled", "b", 3.0)]
    assert bench.engine.prefill_busy_s == pytest.approx(3.0)


def test_decode_gives_a_token_per_step_to_everyone() -> None:
    bench = Bench()
    bench.submit("a", output=3)
    bench.submit("b", output=1)
    assert bench.run() == [
        ("first", "a", 0.1), ("first", "b", 0.1), ("done", "b", 0.1), ("done", "a", 0.3),
    ]  # fmt: skip


def test_direct_request_prefills_and_its_prefill_gives_the_first_token() -> None:
    bench = Bench()
    bench.submit("a", prefill=1.0, output=3)
    assert bench.run() == [("prefilled", "a", 1.0), ("first", "a", 1.0), ("done", "a", 1.2)]


def test_prefill_gets_what_the_batch_leaves_and_never_less_than_its_floor() -> None:
    bench = Bench()
    bench.submit("d", output=1000)
    bench.submit("p", prefill=3.0)
    assert bench.run()[1] == ("prefilled", "p", 4.0)  # A quarter of the batch is in use.
    full = Bench(batch=1)
    full.submit("d", output=21)
    full.submit("p", prefill=0.5)
    # The floor of a quarter: 2 s of prefill in which decode runs at three quarters of its speed.
    assert full.run()[-2:] == [("prefilled", "p", 2.0), ("done", "d", 2.6)]


def test_kv_memory_holds_admission_back() -> None:
    bench = Bench(kv=10)
    bench.submit("a", output=2, kv=6)
    bench.submit("b", output=2, kv=6)
    assert bench.run()[-1] == ("done", "b", 0.4)


def test_cancelled_and_lost_work_reports_nothing() -> None:
    bench = Bench()
    first = bench.submit("a", prefill=2.0)
    bench.submit("b", prefill=1.0)
    bench.engine.cancel(first)
    assert bench.run() == [("prefilled", "b", 1.0)]
    running = bench.submit("c", output=5)
    bench.engine.cancel(running)
    bench.submit("d", output=5)
    bench.engine.fail()
    assert len(bench.run()) == 1
    assert bench.engine.batch == 0
