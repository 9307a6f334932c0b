"""Connections that another thread has accepted."""

from __future__ import annotations

import asyncio
import select
import socket
import threading

import pytest

from prfaas.core.addresses import Address
from prfaas.process import given_connections
from prfaas.process.accepting import Accepting
from prfaas.process.given_connections import GivenConnections


def readable(given: GivenConnections) -> bool:
    return bool(select.select([given.fileno()], [], [], 0)[0])


def a_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_they_are_accepted_in_order_and_then_there_are_none() -> None:
    given = GivenConnections(Address("h", 1))
    assert given.getsockname() == ("h", 1)
    assert not readable(given)
    pairs = [a_pair() for _ in range(3)]
    for number, (_, far) in enumerate(pairs):
        given.give(far, ("10.0.0.5", number))
    for number, (_, far) in enumerate(pairs):
        assert readable(given)
        assert given.accept() == (far, ("10.0.0.5", number))
        far.close()
    assert not readable(given)
    with pytest.raises(BlockingIOError):
        given.accept()
    given.close()
    for near, _ in pairs:
        near.close()


def test_too_many_and_those_that_nobody_takes_any_more_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(given_connections, "_MOST", 2)
    given = GivenConnections(Address("h", 1))
    pairs = [a_pair() for _ in range(4)]
    for _, far in pairs[:3]:
        given.give(far, ("10.0.0.5", 1))
    assert [far.fileno() < 0 for _, far in pairs] == [False, False, True, False]
    given.close()
    given.close()
    given.give(pairs[3][1], ("10.0.0.5", 1))
    assert all(near.recv(1) == b"" for near, _ in pairs)
    for near, _ in pairs:
        near.close()


async def test_a_loop_accepts_what_a_thread_gives() -> None:
    given = GivenConnections(Address("h", 1))
    came: asyncio.Queue[tuple[socket.socket, object]] = asyncio.Queue()
    accepting = Accepting(
        given, lambda sock, peer: came.put_nowait((sock, peer)), print, pause_s=1.0
    )
    pairs = [a_pair() for _ in range(5)]

    def give() -> None:
        for number, (_, far) in enumerate(pairs):
            given.give(far, number)

    threading.Thread(target=give).start()
    async with asyncio.timeout(30):
        found = [await came.get() for _ in pairs]
    assert [peer for _, peer in found] == [0, 1, 2, 3, 4]
    accepting.stop()
    given.close()
    for pair in pairs:
        for end in pair:
            end.close()
