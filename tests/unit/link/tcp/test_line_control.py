"""The share left to others in a closed loop: end, line and a simulated wire on its own clock."""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from prfaas.link.api import TransferKey, TransferOffer
from prfaas.link.protocol.frames import Header, Kind
from prfaas.link.protocol.line_monitor import ConnectionSample
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.tcp import tcp_info
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import PeerConfig, Plaintext, TcpLinkConfig
from prfaas.link.tcp.line_control import LineControl

RTT_S, TICK_S = 0.12, 0.02
BLOCK = memoryview(bytes(1024 * 1024))


class Wire:
    """One connection over which ``capacity`` bytes go per second; acknowledged after `RTT_S`."""

    def __init__(self, sock: socket.socket, leave: float) -> None:
        peer = PeerConfig(address="west:7400", leave_to_others=leave)
        self.line = LineControl("west", peer, TcpLinkConfig(name="east", security=Plaintext()))
        self.end = SendingEnd()
        machine = SendingConnection(
            self.end, 1, guard=nullcontext(), chunk_bytes=65536, keepalive_s=1e9, now=0.0
        )
        self.machine, self.live = machine, {1: (Channel(sock), machine)}
        self.capacity = 20e6
        self.ticks = 0
        self.free_at = 0.0
        self.replies: deque[tuple[float, Header]] = deque()
        offer = TransferOffer(TransferKey("t", 0, 1), "layout", 0, 1, 2**60, 86400.0)
        self.transfer = self.end.open(offer, lambda: None, lambda _: None, now=0.0)
        self.added = self.taken = 0

    @property
    def now(self) -> float:
        return self.ticks * TICK_S

    def run(self, seconds: float, *, busy: bool) -> list[float]:
        """Bytes sent in each second, as shares of the capacity."""
        sent = [0.0] * round(seconds)
        for tick in range(round(seconds / TICK_S)):
            self.ticks += 1
            sent[int(tick * TICK_S)] += self._tick(busy) / self.capacity
            if self.ticks % 5 == 0:
                end = self.end
                self.line.observe(self.live, end.counters, end.queued_bytes, self.now)
                end.pacer.rate_bytes_per_s = self.line.rate_bytes_per_s
        return sent

    def add(self, count: int) -> None:
        for start in range(0, count, len(BLOCK)):
            view = BLOCK[: count - start]
            self.end.add(self.transfer, self.added, view, lambda: None)
            self.added += len(view)

    def _tick(self, busy: bool) -> int:
        while busy and self.added - self.taken < 4 * len(BLOCK):
            self.add(len(BLOCK))
        while self.replies and self.replies[0][0] <= self.now:
            _, reply = self.replies.popleft()
            self.end.heard(1, reply, "", retry=False, now=self.now)
        self.free_at = max(self.free_at, self.now - TICK_S)
        sent = 0
        while self.free_at < self.now:
            work, _ = self.end.take(1, chunk_bytes=self.machine.chunk_bytes, now=self.now)
            if work is None:
                break
            reply = Header(Kind.ACCEPT, 0, 0, self.transfer.handle, 0, 0)
            if not isinstance(work, bytes):
                count = len(work.view)
                reply = Header(Kind.ACK, 0, 0, self.transfer.handle, work.offset, count)
                self.end.written(work)
                self.free_at += count / self.capacity
                self.taken += count
                sent += count
            self.replies.append((self.free_at + RTT_S, reply))
        return sent


@pytest.fixture
def sock(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket whose kernel says what the simulation's would."""
    sample = ConnectionSample(
        rtt_s=RTT_S,
        min_rtt_s=RTT_S,
        segments_sent=0,
        retransmits=0,
        delivery_rate_bytes_per_s=0.0,
        unsent_bytes=0,
        window_bytes=0,
        sent_bytes=0,
    )
    monkeypatch.setattr(tcp_info, "sample", lambda _: sample)
    with closing(socket.socket()) as made:
        yield made


def usual(shares: list[float]) -> float:
    """The median: not what it sends while it looks for more."""
    return sorted(shares)[len(shares) // 2]


@pytest.mark.parametrize("leave", [0.1, 0.2, 0.5, 0.9])
def test_the_share_is_left_from_the_first_byte_on(sock: socket.socket, leave: float) -> None:
    wire = Wire(sock, leave)
    wire.run(5, busy=True)
    assert usual(wire.run(80, busy=True)) == pytest.approx(1 - leave, rel=0.15)


def test_a_pause_is_not_taken_for_a_slow_line(sock: socket.socket) -> None:
    wire = Wire(sock, 0.2)
    wire.run(20, busy=True)
    wire.run(60, busy=False)
    assert usual(wire.run(10, busy=True)) == pytest.approx(0.8, rel=0.15)


def test_an_outage_is_not_taken_for_a_slow_line(sock: socket.socket) -> None:
    wire = Wire(sock, 0.2)
    wire.run(20, busy=True)
    live, wire.live, wire.free_at = wire.live, {}, math.inf
    wire.run(60, busy=True)
    wire.live, wire.free_at = live, wire.now
    assert usual(wire.run(10, busy=True)) == pytest.approx(0.8, rel=0.15)


def test_a_line_that_grows_is_found_out(sock: socket.socket) -> None:
    wire = Wire(sock, 0.2)
    wire.run(20, busy=True)
    wire.capacity *= 2
    wire.run(60, busy=True)
    assert usual(wire.run(10, busy=True)) == pytest.approx(0.8, rel=0.15)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.7])
def test_bursts_are_not_taken_for_a_slow_line(sock: socket.socket, share: float) -> None:
    wire = Wire(sock, 0.2)
    for _ in range(100):
        wire.add(round(share * wire.capacity))
        wire.run(1, busy=False)
        limit = wire.line.rate_bytes_per_s
        assert limit is None or limit >= 0.6 * wire.capacity


def connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        return ours, server.accept()[0]


def control_of(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).strip(b"\0").decode()


@pytest.mark.skipif(
    not {"bbr", "cubic"}
    <= set(Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()),
    reason="the kernel does not have both",
)
def test_a_given_rate_is_carried_by_what_keeps_it_until_packets_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = connected()
    with closing(ours), closing(theirs):
        for rate, asked, first, lossy in (
            (1e6, None, "cubic", "bbr"),
            (None, None, "bbr", "bbr"),
            (1e6, "reno", "cubic", "cubic"),  # What is named in the settings is not changed.
        ):
            ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            peer = PeerConfig(address="west:7400", rate_bytes_per_s=rate)
            config = TcpLinkConfig(name="east", security=Plaintext(), congestion_control=asked)
            line, end = LineControl("west", peer, config), SendingEnd()
            channel = Channel(ours)
            line.introduce(channel)
            assert control_of(ours) == first
            machine = SendingConnection(
                end, 1, guard=nullcontext(), chunk_bytes=65536, keepalive_s=1e9, now=0.0
            )
            for look in range(3):
                lost = ConnectionSample(0.03, 0.03, 100, 10 * look, 1e6, 0, 65536, 10**6)
                monkeypatch.setattr(tcp_info, "sample", lambda _, lost=lost: lost)
                line.observe({1: (channel, machine)}, end.counters, 0, 1e6 + look)
            monkeypatch.undo()
            assert control_of(ours) == lossy
