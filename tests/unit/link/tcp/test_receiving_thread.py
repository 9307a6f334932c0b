"""A connection's thread at the receiving end: what it answers, and how it ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import Hello, Kind, pack, unpack
from prfaas.link.protocol.receiving_connection import ReceivingConnection
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.receiving_thread import ReceivingThread
from prfaas.testing.link_ends import AnyMemory

HELLO = Hello("east", "west", 1, 1)


class Owner:
    """A `ConnectionOwner` of one connection, and how it ended."""

    def __init__(self, silence_s: float = 60.0) -> None:
        self.silence_s = silence_s
        self.end = ReceivingEnd()
        self.ended: list[Exception | None] = []

    def connected(self, hello: Hello, wake: Callable[[], None]) -> ReceivingConnection:
        return ReceivingConnection(
            self.end,
            hello.name,
            hello.session,
            hello.connection,
            guard=nullcontext(),
            ask=lambda peer, offer: AnyMemory(),
            wake=wake,
            max_chunk_bytes=1024,
        )

    def deliver_events(self) -> None: ...

    def disconnected(self, thread: ReceivingThread, error: Exception | None) -> None:
        self.ended.append(error)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    near, far = socket.socketpair()
    near.settimeout(20)
    with near:
        yield near, Channel(far)


def kind_of(frame: bytes) -> Kind:
    return unpack(memoryview(frame), max_chunk_bytes=1).kind


def test_it_answers_until_the_sender_closes(pair: tuple[socket.socket, Channel]) -> None:
    near, channel = pair
    owner = Owner()
    thread = ReceivingThread(owner, channel, HELLO)
    thread.start()
    near.sendall(pack(Kind.PING))
    assert kind_of(near.recv(44, socket.MSG_WAITALL)) is Kind.PONG
    near.close()
    thread.join()
    assert owner.ended == [None]
    assert channel.socket.fileno() == -1


def test_it_ends_when_it_is_told_to(pair: tuple[socket.socket, Channel]) -> None:
    near, channel = pair
    owner = Owner()
    thread = ReceivingThread(owner, channel, HELLO)
    thread.start()
    thread.stop()
    thread.join()
    assert owner.ended == [None]
    assert near.recv(100) == b""


class Recorded(Channel):
    """``reads``: what each attempt to read has found."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.reads: list[int | None] = []
        self.has_read = threading.Event()

    def recv_into(self, view: memoryview) -> int | None:
        count = super().recv_into(view)
        self.reads.append(count)
        self.has_read.set()
        return count


def test_after_a_short_read_it_waits(pair: tuple[socket.socket, Channel]) -> None:
    near, channel = pair
    recorded = Recorded(channel.socket)
    ping = pack(Kind.PING)
    near.sendall(ping[:20])
    thread = ReceivingThread(Owner(), recorded, HELLO)
    thread.start()
    assert recorded.has_read.wait(60)
    near.sendall(ping[20:])
    assert kind_of(near.recv(44, socket.MSG_WAITALL)) is Kind.PONG
    near.close()
    thread.join()
    assert recorded.reads == [20, 24, None, 0]


def test_a_peer_that_breaks_the_protocol_is_told(pair: tuple[socket.socket, Channel]) -> None:
    near, channel = pair
    owner = Owner()
    near.sendall(pack(Kind.ACCEPT))
    ReceivingThread(owner, channel, HELLO).run()
    assert isinstance(owner.ended[0], PeerError)
    assert kind_of(near.recv(4096)) is Kind.REJECT


def test_a_silent_peer_is_given_up(pair: tuple[socket.socket, Channel]) -> None:
    owner = Owner(silence_s=0.01)
    ReceivingThread(owner, pair[1], HELLO).run()
    (error,) = owner.ended
    assert isinstance(error, LinkError)
    assert "silent for" in str(error)


def test_a_fault_of_ours_ends_one_connection(
    pair: tuple[socket.socket, Channel],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    near, channel = pair
    owner = Owner()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(ReceivingConnection, "received", fail)
    near.sendall(pack(Kind.PING))
    ReceivingThread(owner, channel, HELLO).run()
    assert isinstance(owner.ended[0], ZeroDivisionError)
    assert "ZeroDivisionError: ours" in caplog.text


def test_a_number_used_twice_is_refused(pair: tuple[socket.socket, Channel]) -> None:
    owner = Owner()
    ReceivingThread(owner, pair[1], HELLO)
    with pytest.raises(PeerError, match="exists already"):
        ReceivingThread(owner, pair[1], HELLO)
    pair[1].close()
