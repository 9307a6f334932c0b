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


def test_too_many_push_out_their_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a gateway that has come is served, however many come after it."""
    monkeypatch.setattr(given_connections, "_MOST", 16)
    given = GivenConnections(Address("h", 1))
    gateway, *pairs = [a_pair() for _ in range(31)]
    assert given.give(gateway[1], ("10.0.0.1", 1))
    had_room = [given.give(far, ("10.6.6.6", number)) for number, (_, far) in enumerate(pairs)]
    assert had_room == [True] * 15 + [False] * 15
    assert [near.recv(1) for near, _ in pairs[:15]] == [b""] * 15
    accepted = [given.accept()[0] for _ in range(16)]
    assert accepted == [gateway[1], *(far for _, far in pairs[15:])]
    assert not readable(given)
    given.close()
    for sock in (*accepted, gateway[0], *(near for near, _ in pairs)):
        sock.close()


def test_of_many_networks_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_connections, "_MOST", 16)
    given = GivenConnections(Address("h", 1))
    pairs = [a_pair() for _ in range(17)]
    for number, (_, far) in enumerate(pairs):
        given.give(far, (f"10.0.0.{number}", 1))
    assert [far.fileno() < 0 for _, far in pairs] == [True] + [False] * 16
    given.close()
    for near, _ in pairs:
        near.close()


def test_they_take_a_part_of_all_descriptors_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_connections, "share_of_files", lambda share, most: most // share // 8)
    given = GivenConnections(Address("h", 1))
    pairs = [a_pair() for _ in range(100)]
    for _, far in pairs:
        given.give(far, ("10.0.0.5", 1))
    assert sum(far.fileno() >= 0 for _, far in pairs) == 32
    given.close()
    for near, _ in pairs:
        near.close()


def test_those_that_nobody_takes_any_more_are_closed() -> None:
    given = GivenConnections(Address("h", 1))
    pairs = [a_pair() for _ in range(2)]
    given.give(pairs[0][1], ("10.0.0.5", 1))
    given.close()
    given.give(pairs[1][1], ("10.0.0.5", 1))
    assert all(near.recv(1) == b"" for near, _ in pairs)
    given.close()
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
            given.give(far, ("10.0.0.5", number))

    threading.Thread(target=give).start()
    async with asyncio.timeout(30):
        found = [await came.get() for _ in pairs]
    assert [peer for _, peer in found] == [("10.0.0.5", number) for number in range(5)]
    accepting.stop()
    given.close()
    for pair in pairs:
        for end in pair:
            end.close()
