"""The operator's self-test of a line: what the KV link gets out of it with 1 to N connections.

The far end is any agent: a transfer whose layout is `LINK_TEST_LAYOUT` is received, verified and
forgotten by the link itself, so neither its arena nor its engines notice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import msgspec

from prfaas.core.errors import LinkError
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.link_test_memory import LINK_TEST_LAYOUT

_BLOCK_BYTES = 4 * 1024 * 1024
_QUEUED_BLOCKS = 32
"""128 MiB wait to be sent: 100 ms of a line of 10 Gbit/s."""
_WINDOW_S = 1.0
_NEAR_BEST = 0.95
"""Of the stages whose goodput is this near to the best, the one with the fewest connections is
recommended."""


class Stage(msgspec.Struct, frozen=True):
    """What a number of connections reached (bytes per second, seconds)."""

    connections: int
    tls: bool
    goodput_bytes_per_s: float
    best_window_bytes_per_s: float
    """Over the best second: the nearest to the line's limit."""
    rtt_s: float
    min_rtt_s: float
    retransmit_share: float
    """Segments sent again: the loss the senders had to make up for."""


class Report(msgspec.Struct, frozen=True):
    """The whole test. ``line_limit_bytes_per_s`` is the best second of all stages: what
    ``iperf3`` with many streams would show, less headers."""

    peer: str
    address: str
    stages: tuple[Stage, ...]
    rtt_s: float
    loss: float
    line_limit_bytes_per_s: float
    recommended_connections: int


class SilentSink:
    """Takes no transfer of its own; link tests are the link's."""

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        """Refuse."""
        return Refusal("this end only takes link tests")

    def stored(self, key: TransferKey, flat_offset: int, length: int) -> None: ...

    def completed(self, key: TransferKey) -> None: ...

    def failed(self, key: TransferKey, reason: str) -> None: ...

    def withdrawn(self, key: TransferKey, reason: str) -> None: ...


def run_stages(
    config: TcpLinkConfig,
    peer: str,
    address: str,
    counts: Sequence[int],
    *,
    tls: bool,
    seconds: float,
) -> Iterator[Stage]:
    """One stage after the other, each on fresh connections, measured for ``seconds`` (above zero).
    Raises LinkError."""
    for count in counts:
        target = PeerConfig(address=address, connections=count)
        link = TcpLink(msgspec.structs.replace(config, peers={peer: target}), SilentSink())
        try:
            yield _Stream(link, peer, seconds).measure(count, tls=tls)
        finally:
            link.close()


def report(peer: str, address: str, stages: Sequence[Stage]) -> Report:
    """Sum a test up; plaintext stages count for the line's limit only."""
    of_choice = [s for s in stages if s.tls] or list(stages)
    best = max(s.goodput_bytes_per_s for s in of_choice)
    enough = [s for s in of_choice if s.goodput_bytes_per_s >= _NEAR_BEST * best]
    return Report(
        peer=peer,
        address=address,
        stages=tuple(stages),
        rtt_s=min(s.min_rtt_s for s in stages),
        loss=min(s.retransmit_share for s in stages),
        line_limit_bytes_per_s=max(s.best_window_bytes_per_s for s in stages),
        recommended_connections=min(s.connections for s in enough),
    )


class _Stream:
    """Keeps a transfer without end supplied from one block of memory."""

    def __init__(self, link: TcpLink, peer: str, seconds: float) -> None:
        self._link, self._seconds = link, seconds
        self._block = memoryview(bytes(range(256)) * (_BLOCK_BYTES // 256))
        self._free = threading.Semaphore(_QUEUED_BLOCKS)
        self._problem: str | None = None
        self._stop = False
        offer = TransferOffer(
            TransferKey(f"link-test-{time.time_ns()}", 0, 1),
            LINK_TEST_LAYOUT,
            0,
            1,
            2**50,
            seconds + 30.0,
        )
        self._handle = link.send(peer, offer, on_complete=lambda: None, on_failed=self._failed)

    def measure(self, count: int, *, tls: bool) -> Stage:
        feeder = threading.Thread(target=self._feed, daemon=True)
        feeder.start()
        try:
            self._wait_for_first_bytes()
            marks = list(self._marks())
        finally:
            self._stop = True
            self._handle.cancel("the test is over")
            self._free.release()
            feeder.join()
        state = self._link.states()[0]
        connections = next(iter(self._link.counters().peers.values())).connections
        (start, first), (end, last) = marks[len(marks) // 4], marks[-1]
        step = max(1, round(min(_WINDOW_S, self._seconds / 2) / 0.1))
        pairs = zip(marks, marks[step:], strict=False)
        windows = [(b - a) / (t1 - t0) for (t0, a), (t1, b) in pairs]
        sent = sum(c.sent_bytes for c in connections)
        return Stage(
            connections=count,
            tls=tls,
            goodput_bytes_per_s=(last - first) / (end - start),
            best_window_bytes_per_s=max(windows, default=0.0),
            rtt_s=state.rtt_s,
            min_rtt_s=state.min_rtt_s,
            retransmit_share=state.retransmits * 1448 / sent if sent else 0.0,
        )

    def _feed(self) -> None:
        offset = 0
        while not self._stop:
            self._free.acquire()
            self._handle.add(offset, self._block, self._free.release)
            offset += len(self._block)

    def _wait_for_first_bytes(self) -> None:
        until = time.monotonic() + 15.0
        while not self._handle.acknowledged_bytes:
            (peer,) = self._link.counters().peers.values()
            turned_away = "PeerError" in peer.dial_errors
            if turned_away or self._problem is not None or time.monotonic() > until:
                trouble = peer.last_error or self._problem
                raise LinkError(trouble or "no byte was acknowledged within 15 s")
            time.sleep(0.01)

    def _marks(self) -> Iterator[tuple[float, int]]:
        """(when, bytes acknowledged) every 100 ms, the last when the time is over: two at least."""
        now = time.monotonic()
        end = now + self._seconds
        yield now, self._handle.acknowledged_bytes
        while now < end:
            time.sleep(0.1)
            if self._problem is not None:
                raise LinkError(self._problem)
            now = time.monotonic()
            yield now, self._handle.acknowledged_bytes

    def _failed(self, reason: str) -> None:
        if not self._stop:
            self._problem = reason
