"""Sending to one peer: who dials, what is told of errors, and that nothing outlives its end."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import Welcome
from prfaas.link.tcp import sending_driver
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.dialing import Dialled
from prfaas.link.tcp.sending_driver import SendingDriver
from prfaas.link.tcp.sending_thread import SendingThread

CONFIG = TcpLinkConfig(name="east", security=Plaintext())


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[SendingDriver]:
    """Sends to an agent that is never there."""

    def dial(*_: object) -> Dialled:
        raise LinkError("nobody there")

    monkeypatch.setattr(sending_driver, "dial", dial)
    made = SendingDriver("west", PeerConfig(address="west:7400", connections=3), CONFIG, None)
    yield made
    made.close()


def test_while_nothing_is_connected_one_dials_for_all(peer: SendingDriver) -> None:
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 4, 60.0)
    peer.open(offer, lambda: None, lambda _: None)
    assert [peer.wants(slot) for slot in range(4)] == [True, False, False, False]
    thread = SendingThread(peer, 1)
    with socket.socket() as sock:
        peer.connected(thread, Dialled(Channel(sock), Welcome("west", 1, 4096), 1))
        assert [peer.wants(slot) for slot in range(4)] == [True, True, True, False]
        peer.disconnected(thread, graceful=True)
    assert [peer.wants(slot) for slot in range(4)] == [True, False, False, False]
    thread.stop()
    thread.run()


def test_no_news_of_others_cuts_a_pause_short(peer: SendingDriver) -> None:
    """A peer that lets everybody in and hangs up would have all connections wake each other."""
    offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 256, 4, 60.0)
    paused = threading.Thread(target=peer.pause, args=[600.0])
    paused.start()
    for _ in range(20):
        peer.open(offer, lambda: None, lambda _: None)
        paused.join(0.02)
    assert paused.is_alive()
    peer.configure(PeerConfig(address="west:7401", connections=3))
    paused.join()
    threading.Timer(0.1, peer.close).start()
    peer.pause(600.0)


def test_what_happens_hundreds_of_times_a_second_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SendingThread, "start", lambda _: None)
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    peer = SendingDriver("west", PeerConfig(address="west:7400"), CONFIG, None)
    for number in range(100):
        peer.lost(number, PeerError(f"{number}"))
        peer.dial_failed(PeerError(f"rejected: {number}"))
    assert [record.message for record in caplog.records] == [
        "connection 0 to west lost (1 times): 0",
        "link to west: rejected: 0",
    ]


def test_no_thread_starts_after_the_end(peer: SendingDriver) -> None:
    peer.close()
    peer.configure(PeerConfig(address="west:7400", connections=8))
    assert not [t for t in threading.enumerate() if t.name.startswith("kv-link-to-")]


class Guarded(Counter[str]):
    """Refuses to be written without the lock."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__()
        self.lock = lock

    def __setitem__(self, key: str, value: int) -> None:
        assert self.lock.locked(), "written without the lock that guards it"
        super().__setitem__(key, value)


class Watched(SendingDriver):
    """Notes whether its last error was ever written without the lock."""

    unguarded = 0

    def __setattr__(self, name: str, value: object) -> None:
        if name == "last_error" and "end" in vars(self) and not self.lock.locked():
            self.unguarded += 1
        super().__setattr__(name, value)


def test_errors_are_noted_under_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SendingThread, "start", lambda _: None)
    peer = Watched("west", PeerConfig(address="west:7400"), CONFIG, None)
    peer.dial_errors, peer.unguarded = Guarded(peer.lock), 0
    peer.dial_failed(LinkError("cannot reach it"))
    peer.note_error(OSError("reset"))
    peer.dial_failed(PeerError("its certificate is not valid"))
    with socket.socket() as sock:
        peer.connected(SendingThread(peer, 0), Dialled(Channel(sock), Welcome("west", 1, 4096), 1))
    assert peer.unguarded == 0
    assert peer.telemetry().dial_errors == {"LinkError": 1, "PeerError": 1}
    assert peer.telemetry().last_error == "", "it is connected"


def test_an_error_is_counted_and_quoted_in_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sees that an attempt has failed sees why: both are read and written under one lock."""
    monkeypatch.setattr(SendingThread, "start", lambda _: None)
    peer = SendingDriver("west", PeerConfig(address="west:7400"), CONFIG, None)
    seen: list[str] = []

    class Looking(Counter[str]):
        """Looks from another thread at what telemetry shows, in the middle of a write."""

        def __setitem__(self, key: str, value: int) -> None:
            super().__setitem__(key, value)
            looker.start()

    def look() -> None:
        told = peer.telemetry()
        seen.append(told.last_error if told.dial_errors else "nothing counted yet")

    looker = threading.Thread(target=look)
    peer.dial_errors = Looking()
    peer.dial_failed(PeerError("its certificate is not valid"))
    looker.join()
    assert seen == ["its certificate is not valid"]
