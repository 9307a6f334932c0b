"""A connection's thread: when it dials, and what it outlives."""

from __future__ import annotations

import itertools
import socket

import pytest

from prfaas.core.errors import LinkError
from prfaas.link.protocol.frames import Welcome
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.dialing import Dialled
from prfaas.link.tcp.sending_thread import SendingThread


class Scripted:
    """A `ConnectionPool` whose attempts fail; it stops the thread after ``rounds`` of them."""

    def __init__(self, rounds: int) -> None:
        self.name = "west"
        self.outcomes: itertools.chain[Exception | Dialled] = itertools.chain()
        self.rounds, self.pauses = rounds, list[float]()
        self.errors: list[Exception] = []
        self.gone: list[SendingThread] = []
        self.thread = SendingThread(self, 0)

    def wants(self, slot: int) -> bool:
        return True

    def pause(self, seconds: float | None) -> None:
        assert seconds is not None
        self.pauses.append(seconds)
        if len(self.pauses) == self.rounds:
            self.thread.stop()

    def dial(self) -> Dialled:
        outcome = next(self.outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def connected(self, thread: SendingThread, dialled: Dialled) -> SendingConnection:
        raise RuntimeError("can't start new thread")

    def retires(self, slot: int, number: int, *, idle_s: float) -> bool:
        raise AssertionError("no connection lives long enough")

    def deliver_events(self) -> None:
        raise AssertionError("nothing was ever sent")

    def dial_failed(self, error: Exception) -> None:
        self.errors.append(error)

    note_error = dial_failed

    def lost(self, number: int, error: Exception) -> None:
        self.errors.append(error)

    def disconnected(self, thread: SendingThread, *, graceful: bool) -> None:
        assert not graceful
        self.gone.append(thread)


def test_a_peer_that_stays_away_is_dialled_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A day is some 100,000 attempts; an error that nobody expects is one of them."""
    pool = Scripted(rounds=2000)
    pool.outcomes = itertools.chain([ValueError("odd")], itertools.repeat(LinkError("away")))
    pool.thread.run()
    assert len(pool.errors) == 2000
    assert pool.pauses[0] <= 0.1
    assert 0.5 <= min(pool.pauses[10:]) <= max(pool.pauses) <= 1.0
    assert "ValueError: odd" in caplog.text


def test_a_connection_that_fails_at_its_start_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel(socket.socket())
    pool = Scripted(rounds=1)
    pool.outcomes = itertools.chain([Dialled(channel, Welcome("west", 1, 1024), 1)])
    pool.thread.run()
    assert pool.gone == [pool.thread]
    assert channel.socket.fileno() == -1
    assert "RuntimeError: can't start new thread" in caplog.text
