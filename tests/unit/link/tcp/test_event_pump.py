"""Events are delivered in order, outside of the lock, whoever is at hand."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from prfaas.link.tcp.event_pump import EventPump


def test_a_callback_may_call_back() -> None:
    lock, events, seen = threading.Lock(), deque([1, 2]), list[int]()

    def deliver(event: int) -> None:
        with lock:  # the pump holds it no longer
            if event == 1:
                events.append(3)
        pump.drain()  # delivers nothing out of turn
        seen.append(event)

    pump = EventPump(lock, events, deliver)
    pump.drain()
    assert seen == [1, 2, 3]
    pump.drain()
    assert seen == [1, 2, 3]


def test_a_callback_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def deliver(event: int) -> None:
        if event == 1:
            raise ZeroDivisionError
        seen.append(event)

    EventPump(threading.Lock(), deque([1, 2]), deliver).drain()
    assert seen == [2]
    assert "ZeroDivisionError" in caplog.text


def test_one_thread_at_a_time_delivers() -> None:
    """What a second thread finds is left to the first, which is in the middle of a callback."""
    lock, events, seen = threading.Lock(), deque([1]), list[tuple[int, int]]()

    def deliver(event: int) -> None:
        if event == 1:
            with lock:
                events.append(2)
            other = threading.Thread(target=pump.drain)
            other.start()
            other.join()
        seen.append((event, threading.get_ident()))

    pump = EventPump(lock, events, deliver)
    pump.drain()
    me = threading.get_ident()
    assert seen == [(1, me), (2, me)]
