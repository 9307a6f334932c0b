"""`ServingLoop`: many connections' turns in one thread."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator

import pytest

from prfaas.core.errors import LinkError
from prfaas.link.tcp.serving_loop import ServingLoop, Turns
from prfaas.link.tcp.waiting import Wakeup


@pytest.fixture
def loop() -> Iterator[ServingLoop]:
    loop = ServingLoop()
    yield loop
    loop.close()


def _pipe() -> tuple[int, int]:
    return os.pipe()


def test_all_turns_are_in_one_thread_and_each_reads_its_own(loop: ServingLoop) -> None:
    threads: set[int] = set()
    read: dict[int, bytes] = {}

    def turns(number: int, fd: int) -> Turns:
        while not (yield math.inf):
            pass
        threads.add(threading.get_ident())
        read[number] = os.read(fd, 10)

    def serve(number: int, fd: int) -> None:
        wakeup = Wakeup()
        loop.serve(turns(number, fd), fd, wakeup)
        wakeup.close()

    pipes = [_pipe() for _ in range(3)]
    callers = [
        threading.Thread(target=serve, args=(number, fd)) for number, (fd, _) in enumerate(pipes)
    ]
    for caller in callers:
        caller.start()
    for number, (_, out) in enumerate(pipes):
        os.write(out, b"%d" % number)
    for caller in callers:
        caller.join(60)
    assert read == {0: b"0", 1: b"1", 2: b"2"}
    assert len(threads) == 1


def test_a_wakeup_and_the_time_give_a_turn_with_nothing_to_read(loop: ServingLoop) -> None:
    got: list[bool] = []
    wakeup = Wakeup()

    def turns() -> Turns:
        wakeup.set()
        got.append((yield math.inf))
        got.append((yield time.monotonic() + 0.001))

    fd, _ = _pipe()
    loop.serve(turns(), fd, wakeup)
    assert got == [False, False]


def test_what_turns_raise_is_raised_to_whoever_has_them_served(loop: ServingLoop) -> None:
    def turns() -> Turns:
        yield 1.0
        raise LinkError("closed by the peer")

    fd, _ = _pipe()
    with pytest.raises(LinkError, match="closed by the peer"):
        loop.serve(turns(), fd, Wakeup())
    # And others are served after it.
    other, out = _pipe()
    os.write(out, b"x")

    def more() -> Turns:
        assert (yield math.inf)

    loop.serve(more(), other, Wakeup())


def test_nothing_is_served_once_it_is_closed() -> None:
    loop = ServingLoop()
    began = threading.Event()
    errors: list[LinkError] = []

    def turns() -> Turns:
        began.set()
        while True:
            yield math.inf

    def serve() -> None:
        try:
            loop.serve(turns(), _pipe()[0], Wakeup())
        except LinkError as error:
            errors.append(error)

    caller = threading.Thread(target=serve)
    caller.start()
    began.wait(60)
    loop.close()
    caller.join(60)
    assert len(errors) == 1
    with pytest.raises(LinkError, match="closed"):
        loop.serve(turns(), _pipe()[0], Wakeup())
