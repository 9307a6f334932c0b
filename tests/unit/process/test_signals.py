"""A program that is told to end cleans up first, and its status says how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from prfaas.process.signals import run_until_signal


@pytest.fixture(autouse=True)
def _a_hang_up_is_not_ignored() -> Iterator[None]:
    # As it is under nohup, and after a test that has run what listens to it later.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Program:
    """Sends itself ``numbers``, and more of them while it cleans up."""

    def __init__(self, *numbers: int, while_cleaning_up: tuple[int, ...] = ()) -> None:
        self.numbers, self.more = numbers, while_cleaning_up
        self.cleaned_up = False

    async def run(self) -> int:
        try:
            for number in self.numbers:
                os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            for number in self.more:
                os.kill(os.getpid(), number)
            for _ in range(10):
                await asyncio.sleep(0)
            self.cleaned_up = True
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(number: int) -> None:
    program = Program(number)
    assert run_until_signal(program.run()) == 128 + number
    assert program.cleaned_up


def test_a_server_that_is_stopped_has_done_its_work() -> None:
    assert run_until_signal(Program(signal.SIGTERM).run(), stopped_status=0) == 0


def test_a_second_signal_does_not_break_off_the_cleaning_up() -> None:
    program = Program(signal.SIGINT, while_cleaning_up=(signal.SIGINT, signal.SIGTERM))
    assert run_until_signal(program.run()) == 128 + signal.SIGINT
    assert program.cleaned_up


def test_a_program_that_ends_by_itself_says_how() -> None:
    async def seven() -> int:
        return 7

    async def wrong() -> int:
        raise ZeroDivisionError

    assert run_until_signal(seven(), stopped_status=0) == 7
    with pytest.raises(ZeroDivisionError):
        run_until_signal(wrong())


def test_a_cancel_that_is_no_signal_is_an_error() -> None:
    async def cancels_itself() -> int:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        run_until_signal(cancels_itself(), stopped_status=0)


def test_a_hang_up_and_a_second_signal_may_mean_something_else() -> None:
    hung_up: list[str] = []
    program = Program(signal.SIGHUP, signal.SIGTERM, while_cleaning_up=(signal.SIGTERM,))
    status = run_until_signal(
        program.run(),
        stopped_status=0,
        on_hangup=lambda: hung_up.append("hung up"),
        on_repeated=lambda: hung_up.append("hurry"),
    )
    assert status == 0
    assert program.cleaned_up
    assert sorted(hung_up) == ["hung up", "hurry"]


def test_a_hang_up_that_is_ignored_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        status = run_until_signal(Program(signal.SIGHUP, signal.SIGTERM).run())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert status == 128 + signal.SIGTERM
