"""How a connection's thread waits, and what ends the wait."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.waiting import Waiter, Wakeup


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    near, far = socket.socketpair()
    channels = Channel(near), Channel(far)
    yield channels
    for channel in channels:
        channel.close()


def test_the_socket_ends_it(pair: tuple[Channel, Channel]) -> None:
    wakeup = Wakeup()
    waiter = Waiter(pair[0], wakeup)
    assert not waiter.wait(read=False, write=True, timeout_s=None), "it can be written"
    assert not waiter.wait(read=True, write=False, timeout_s=0.0)
    pair[1].send([memoryview(b"x")])
    assert waiter.wait(read=True, write=False, timeout_s=None)
    wakeup.close()


def test_another_thread_ends_it_once(pair: tuple[Channel, Channel]) -> None:
    wakeup = Wakeup()
    waiter = Waiter(pair[0], wakeup)
    thread = threading.Thread(target=wakeup.set)
    thread.start()
    assert not waiter.wait(read=True, write=False, timeout_s=None)
    thread.join()
    assert not waiter.wait(read=True, write=False, timeout_s=0.0)
    wakeup.close()


def test_the_end_of_the_other_side_is_something_to_read(pair: tuple[Channel, Channel]) -> None:
    wakeup = Wakeup()
    pair[1].hang_up()
    assert Waiter(pair[0], wakeup).wait(read=True, write=False, timeout_s=None)
    wakeup.close()


def test_a_wakeup_may_be_set_once_it_is_closed() -> None:
    wakeup = Wakeup()
    wakeup.close()
    wakeup.set()
