"""A bad receiver hurts only what is sent to it; connections come and go with the work."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import FrameReader, Kind, Welcome, control, pack
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.testing.link_kit import MemorySink

MIB = 1024 * 1024


class DeafReceiver:
    """Welcomes everyone, accepts every offer, and then reads nothing any more."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._greet, args=(sock,), daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        reader = FrameReader(max_chunk_bytes=1)
        try:
            while count := sock.recv_into(reader.get_buffer()):
                frame = reader.received(count)
                if frame is None:
                    continue
                if frame.header.kind is Kind.HELLO:
                    sock.sendall(control(Kind.WELCOME, Welcome("deaf", 1, MIB)))
                elif frame.header.kind is Kind.OFFER:
                    sock.sendall(pack(Kind.ACCEPT, handle=frame.header.handle))
                    return
        except OSError:
            pass


@pytest.fixture
def deaf() -> Iterator[DeafReceiver]:
    made = DeafReceiver()
    yield made
    made.close()


@pytest.fixture
def west() -> Iterator[TcpLink]:
    link = TcpLink(TcpLinkConfig(name="west", security=Plaintext()), MemorySink())
    yield link
    link.close()


def send(
    link: TcpLink, peer: str, data: bytes, deadline_s: float, released: threading.Event
) -> Callable[[], str]:
    """Start a transfer; call the result to wait for its outcome."""
    said: list[str] = []
    over = threading.Event()

    def end(outcome: str) -> None:
        said.append(outcome)
        over.set()

    key = TransferKey(f"to-{peer}-{time.monotonic_ns()}", 0, 1)
    offer = TransferOffer(key, "layout", 0, 256, len(data), deadline_s)
    handle = link.send(peer, offer, on_complete=lambda: end("complete"), on_failed=end)
    handle.add(0, memoryview(data), released.set)

    def wait() -> str:
        assert over.wait(60), "no outcome"
        return said[0]

    return wait


def test_a_deaf_receiver_hurts_only_itself(deaf: DeafReceiver, west: TcpLink) -> None:
    peers = {
        "deaf": PeerConfig(address=deaf.address, connections=1),
        "west": PeerConfig(address=west.address),
    }
    config = TcpLinkConfig(name="east", security=Plaintext(), peers=peers, keepalive_s=0.3)
    link = TcpLink(config, MemorySink())
    stuck_released, free_released = threading.Event(), threading.Event()
    stuck = send(link, "deaf", bytes(32 * MIB), 0.8, stuck_released)
    free = send(link, "west", bytes(16 * MIB), 60.0, free_released)
    assert free() == "complete"
    assert "deadline" in stuck()
    assert free_released.wait(60)
    # A chunk is half written to the deaf one: its memory comes back when the line is given up.
    assert stuck_released.wait(60)
    link.close()


def test_idle_connections_are_closed_and_opened_again(west: TcpLink) -> None:
    peer = PeerConfig(address=west.address, connections=3)
    config = TcpLinkConfig(
        name="east", security=Plaintext(), peers={"west": peer}, keepalive_s=0.2, idle_s=0.3
    )
    link = TcpLink(config, MemorySink())
    for _ in range(2):
        released = threading.Event()
        assert send(link, "west", bytes(8 * MIB), 60.0, released)() == "complete"
        until = time.monotonic() + 60
        while link.states()[0].connections != 1 and time.monotonic() < until:
            threading.Event().wait(0.02)
        assert link.states()[0].connections == 1
    assert link.counters().peers["west"].connections_lost == 0
    link.close()


def test_the_link_state_shows_a_busy_limit(west: TcpLink) -> None:
    rate = 20e6
    peer = PeerConfig(address=west.address, rate_bytes_per_s=rate)
    link = TcpLink(
        TcpLinkConfig(name="east", security=Plaintext(), peers={"west": peer}), MemorySink()
    )
    assert link.states()[0].congestion == 0.0
    outcome = send(link, "west", bytes(40 * 1000 * 1000), 60.0, threading.Event())
    most = max(_sampled(link, outcome), key=lambda state: state[0])
    assert 0.85 <= most[0] <= 1.0
    assert most[1] >= 0.5
    state = link.states()[0]
    assert state.limit_bytes_per_s == rate
    assert state.acknowledged_bytes_total == 40 * 1000 * 1000
    assert state.min_rtt_s > 0
    link.close()


def _sampled(link: TcpLink, outcome: Callable[[], str]) -> list[tuple[float, float]]:
    """(utilisation, congestion) while the transfer runs."""
    over = threading.Event()
    seen: list[tuple[float, float]] = []

    def watch() -> None:
        while not over.wait(0.1):
            state = link.states()[0]
            seen.append((state.utilisation, state.congestion))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert outcome() == "complete"
    over.set()
    watcher.join()
    return seen
