"""The sending end's threads: when they dial, and what they outlive."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from prfaas.core.errors import LinkError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import Hello, Welcome
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.tcp import sending_thread
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.dialing import Dialled
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.sending_driver import SendingDriver
from prfaas.link.tcp.sending_thread import SendingThread
from prfaas.testing.link_kit import MemorySink

CONFIG = TcpLinkConfig(name="east", security=Plaintext())


class Scripted:
    """What a `SendingThread` knows of its peer; stops it after ``rounds`` attempts that failed."""

    def __init__(self, rounds: int) -> None:
        self.name, self.config, self.context, self.peer = "west", CONFIG, None, None
        self.line = SimpleNamespace(chunk_bytes=1)
        self.lock, self.end = nullcontext(), SendingEnd()
        self.rounds, self.pauses = rounds, list[float]()
        self.errors: list[Exception] = []
        self.gone: list[SendingThread] = []
        self.thread = SendingThread(self, 0)  # type: ignore[arg-type]

    def hello(self) -> Hello:
        return Hello("east", "west", 1, 1)

    def wants(self, slot: int) -> bool:
        return True

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if len(self.pauses) == self.rounds:
            self.thread.stop()

    def dial_failed(self, error: Exception) -> None:
        self.errors.append(error)

    note_error = dial_failed

    def welcomed(self, welcome: Welcome) -> None:
        raise RuntimeError("can't start new thread")

    def disconnected(self, thread: SendingThread, *, graceful: bool) -> None:
        self.gone.append(thread)


def test_a_peer_that_stays_away_is_dialled_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A day is some 100,000 attempts; an error that nobody expects is one of them."""
    errors = itertools.chain([ValueError("odd")], itertools.repeat(LinkError("away")))

    def dial(*_: object) -> Dialled:
        raise next(errors)

    monkeypatch.setattr(sending_thread, "dial", dial)
    peer = Scripted(rounds=2000)
    peer.thread.run()
    assert len(peer.errors) == 2000
    assert peer.pauses[0] <= 0.1
    assert 0.5 <= min(peer.pauses[10:]) <= max(peer.pauses) <= 1.0
    assert "ValueError: odd" in caplog.text


def test_a_connection_that_fails_at_its_start_is_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    channel = Channel(socket.socket())
    dialled = Dialled(channel, Welcome("west", 1, 1024))
    monkeypatch.setattr(sending_thread, "dial", lambda *_: dialled)
    peer = Scripted(rounds=1)
    peer.thread.run()
    assert peer.gone == [peer.thread]
    assert channel.socket.fileno() == -1
    assert "RuntimeError: can't start new thread" in caplog.text


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[SendingDriver]:
    """Sends to an agent that is never there."""

    def dial(*_: object) -> Dialled:
        raise LinkError("nobody there")

    monkeypatch.setattr(sending_thread, "dial", dial)
    peer = SendingDriver("west", PeerConfig(address="west:7400", connections=3), CONFIG, None)
    yield peer
    peer.close()


def test_while_nothing_is_connected_one_dials_for_all(peer: SendingDriver) -> None:
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 4, 60.0)
    peer.open(offer, lambda: None, lambda _: None)
    assert [peer.wants(slot) for slot in range(4)] == [True, False, False, False]
    thread = SendingThread(peer, 1)
    with socket.socket() as sock:
        machine = SendingConnection(
            peer.end, 1, guard=peer.lock, chunk_bytes=1, keepalive_s=5.0, now=0.0
        )
        peer.connected(thread, Channel(sock), machine)
        assert [peer.wants(slot) for slot in range(4)] == [True, True, True, False]
        peer.disconnected(thread, graceful=True)
    assert [peer.wants(slot) for slot in range(4)] == [True, False, False, False]
    thread.stop()
    thread.run()


def test_no_thread_starts_after_the_end(peer: SendingDriver) -> None:
    peer.close()
    peer.configure(PeerConfig(address="west:7400", connections=8))
    assert not [t for t in threading.enumerate() if t.name.startswith("kv-link-to-")]


def test_a_fault_in_the_ticker_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, again = itertools.count(1), threading.Event()

    def tick(self: SendingDriver, now: float) -> None:
        if next(calls) >= 2:
            again.set()
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(SendingDriver, "tick", tick)
    config = TcpLinkConfig(
        name="east", security=Plaintext(), peers={"west": PeerConfig(address="127.0.0.1:1")}
    )
    link = TcpLink(config, MemorySink())
    assert again.wait(20)
    link.close()
    assert "ZeroDivisionError: ours" in caplog.text
