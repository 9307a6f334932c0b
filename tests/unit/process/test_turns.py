"""Turns: one piece at a time, and a share of the thread's time."""

from __future__ import annotations

import asyncio

import pytest

from prfaas.process.turns import Turns


async def test_pieces_are_done_in_their_order_each_in_a_turn_of_its_own() -> None:
    turns, done = Turns(0.5), list[int]()
    for number in range(3):
        turns.ask(lambda number=number: done.append(number))
    for count in range(3):
        assert len(done) == count
        await asyncio.sleep(0)
    assert done == [0, 1, 2]


async def test_what_has_taken_long_is_rested_for(monkeypatch: pytest.MonkeyPatch) -> None:
    worked, at, later = [0.0], [100.0], list[float]()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: at[0])
    monkeypatch.setattr(loop, "call_at", lambda when, _: later.append(when))
    turns = Turns(1 / 8, clock=lambda: worked[0])

    def work() -> None:
        worked[0] += 0.01
        turns.ask(work)

    turns.ask(work)
    await asyncio.sleep(0)
    assert later == [pytest.approx(100.07)]


async def test_a_piece_that_fails_ends_nobody_elses_turns() -> None:
    loop, failures, done = asyncio.get_running_loop(), list[object](), list[str]()
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    turns = Turns(1.0)

    def fail() -> None:
        raise ValueError

    turns.ask(fail)
    turns.ask(lambda: done.append("next"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["next"]
    assert [type(failure) for failure in failures] == [ValueError]
