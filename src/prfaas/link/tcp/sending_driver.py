"""Sending to one peer: drives its `SendingEnd` with a lock, connections' threads and the time."""

from __future__ import annotations

import copy
import itertools
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from prfaas.core.errors import LinkError
from prfaas.core.once_a_second import OnceASecond
from prfaas.link.api import LinkState, TransferOffer
from prfaas.link.protocol.frames import Hello, Welcome
from prfaas.link.protocol.sending_connection import (
    SendingConnection,
    header_of,
    header_without_digest,
    nobody_asked,
    nothing_to_say,
)
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.tcp.channel import is_own
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.dialing import Dialled, dial, reach
from prfaas.link.tcp.event_pump import EventPump
from prfaas.link.tcp.line_budget import BudgetedPacer, LineBudget
from prfaas.link.tcp.line_control import LineControl
from prfaas.link.tcp.sending_thread import Connected, SendingThread
from prfaas.link.tcp.telemetry import PeerTelemetry, connections_telemetry
from prfaas.link.tcp.transfer_handle import TransferHandle
from prfaas.link.tcp.workers import Workers
from prfaas.tls.live import LiveTls

log = logging.getLogger(__name__)

_JOIN_S = 2.0
"""How long `close` waits for a thread: one that is just dialling ends by itself, when the peer
answers or its time is up."""
_SAMPLE_S = 0.1
"""How often the kernel is asked about the connections; `LinkState` promises it."""


class SendingDriver:
    """One peer to send to; every method may be called from any thread.

    ``lock`` guards the sending end and all fields. ``last_error`` is what went wrong with the line
    last, empty once it is up; ``dial_errors`` counts attempts that failed by the error's type.
    """

    def __init__(
        self,
        name: str,
        peer: PeerConfig,
        config: TcpLinkConfig,
        tls: LiveTls | None,
        budget: LineBudget | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.name, self._workers = name, workers
        self.lock = threading.Lock()
        self.end = SendingEnd(rate_bytes_per_s=peer.rate_bytes_per_s)
        self._budget = budget
        if budget is not None:
            self.end.pacer = BudgetedPacer(peer.rate_bytes_per_s, budget, name)
        pump: EventPump[Callable[[], None]] = EventPump(
            self.lock, self.end.events, lambda callback: callback()
        )
        self.deliver_events = pump.drain
        self.dial_errors: Counter[str] = Counter()
        self._lines = OnceASecond()
        self.last_error = ""
        self._peer, self._config, self._tls = peer, config, tls
        self._news = threading.Condition(self.lock)
        self._session = secrets.randbits(63)
        self._numbers = itertools.count(1)
        self._incarnation: int | None = None
        self._live: dict[int, Connected] = {}
        self._connected: tuple[Connected, ...] = ()
        """Of ``_live``: replaced with it, so that it can be read without the lock."""
        self._closed = False
        self._sample_at = time.monotonic()
        self._line = LineControl(name, peer, config, budget)
        self._threads: list[SendingThread] = []
        if budget is not None:
            budget.join(name, self)
        with self.lock:
            self._start_threads()

    def configure(self, peer: PeerConfig) -> None:
        """New address, rate or number of connections."""
        with self.lock:
            moved = peer.address != self._peer.address
            self._peer = peer
            self.end.pacer.rate_bytes_per_s = peer.rate_bytes_per_s
            self._line.peer = peer
            self._start_threads()
            connected = self._connected
            self._news.notify_all()
        for each in connected:
            if moved:
                each.channel.hang_up()
            each.thread.wake()

    def open(
        self,
        offer: TransferOffer,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> TransferHandle:
        """Announce a transfer. Raises LinkError when the link is closed."""
        with self.lock:
            if self._closed:
                raise LinkError("the link is closed")
            transfer = self.end.open(offer, on_complete, on_failed, now=time.monotonic())
            self._news.notify_all()
        self.wake_idle()
        return TransferHandle(self, transfer)

    @property
    def open_connections(self) -> int:
        """See `line_budget.Member`."""
        return len(self._connected)

    @property
    def queued_bytes(self) -> int:
        """See `line_budget.Member`."""
        with self.lock:
            return self.end.queued_bytes

    def wake_idle(self, at_most: int = 64) -> None:
        """Wake connections that wait for something to send."""
        for each in self._connected:
            if each.connection.idle and at_most > 0:
                at_most -= 1
                each.thread.wake()

    def check_memory(self, view: memoryview) -> None:
        """Raise CallerError where link workers could not read it."""
        if self._workers is not None and len(view):
            self._workers.memory.extent(view)

    def remake_own(self) -> None:
        """Make the connections anew that no worker carries, or one that has too many."""
        for each in self._connected:
            if each.channel.surplus():
                each.channel.hang_up()

    def tick(self, *, now: float) -> None:
        """Every 20 ms, from the link's ticker."""
        with self.lock:
            self.end.tick(now=now, trouble=self.last_error)
            sendable = self.end.sendable
        if sendable:
            self.wake_idle(1)
        self.deliver_events()
        if now >= self._sample_at:
            self._sample_at = max(self._sample_at + _SAMPLE_S, now)
            self._sample(now)

    def close(self) -> None:
        """Every transfer fails, every connection is closed, every thread ends."""
        with self.lock:
            self._closed = True
            self.end.fail_all("the link is closed")
            self._news.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join(_JOIN_S)
        self.deliver_events()

    # The `ConnectionPool` of the threads.

    def wants(self, slot: int) -> bool:
        """While nothing is connected the first slot alone tries, for all."""
        with self.lock:
            needed = slot < self._line.connections and self.end.busy and bool(self._live)
            return not self._closed and (slot == 0 or needed)

    def pause(self, seconds: float | None) -> None:
        """See `ConnectionPool`."""
        with self.lock:
            known = self._peer
            if seconds is not None:
                # Or a peer that hangs up at once would have all connections wake each other.
                self._news.wait_for(lambda: self._closed or self._peer is not known, seconds)
            elif not self._closed:
                self._news.wait()

    def dial(self) -> Dialled:
        """See `ConnectionPool`."""
        with self.lock:
            peer, number = self._peer, next(self._numbers)
        hello = Hello(self._config.name, self.name, self._session, number)
        carry = None if self._workers is None else self._workers.dialler()
        if carry is not None:
            return carry(reach(self._config, peer, self.name), hello, peer.address)
        return dial(self._config, self._tls, peer, hello)

    def connected(self, thread: SendingThread, dialled: Dialled) -> SendingConnection:
        """See `ConnectionPool`."""
        welcome = dialled.welcome
        most_bytes = min(self._config.max_chunk_bytes, welcome.max_chunk_bytes)
        if (budget := self._budget) is not None:
            budget.opened(now=time.monotonic())
        connection = SendingConnection(
            self.end,
            dialled.number,
            guard=self.lock,
            chunk_bytes=min(self._line.chunk_bytes, most_bytes),
            keepalive_s=self._config.keepalive_s,
            now=time.monotonic(),
            word=nothing_to_say if budget is None else partial(budget.word, self.name),
            granted=nobody_asked if budget is None else budget.granted,
            header=header_of if is_own(dialled.channel) else header_without_digest,
        )
        with self.lock:
            self._greet(welcome, most_bytes)
        self.deliver_events()
        with self.lock:
            self._line.introduce(dialled.channel)
            self._live[thread.slot] = Connected(thread, dialled.channel, connection)
            self._connected = tuple(self._live.values())
            self._start_threads()
            self._news.notify_all()
        return connection

    def _greet(self, welcome: Welcome, most_bytes: int) -> None:
        """Before anything is sent to it: a receiver that has restarted has forgotten all."""
        if self._incarnation not in (None, welcome.incarnation):
            self.end.restarted(f"{self.name} has restarted")
        self._incarnation = welcome.incarnation
        self._line.most_chunk_bytes = most_bytes
        self.last_error = ""

    def retires(self, slot: int, number: int, *, idle_s: float) -> bool:
        """See `ConnectionPool`."""
        with self.lock:
            if self.end.carries(number):
                return False
            return slot >= self._line.connections or (slot > 0 and idle_s >= self._config.idle_s)

    def disconnected(self, thread: SendingThread, *, graceful: bool) -> None:
        """See `ConnectionPool`."""
        with self.lock:
            self._live.pop(thread.slot, None)
            self._connected = tuple(self._live.values())
            if self._budget is not None:
                self._budget.closed()
            if not graceful:
                self.end.counters.connections_lost += 1
        self.wake_idle()
        self.deliver_events()

    def dial_failed(self, error: Exception) -> None:
        """See `ConnectionPool`."""
        with self.lock:
            self.dial_errors[type(error).__name__] += 1
            known, self.last_error = str(error) == self.last_error, str(error)
        # A peer may say something else each time.
        if not known and self._lines.times("dial", time.monotonic()):
            log.warning("link to %s: %s", self.name, error)

    def lost(self, number: int, error: Exception) -> None:
        """See `ConnectionPool`."""
        self.note_error(error)
        if times := self._lines.times("lost", time.monotonic()):
            log.warning("connection %d to %s lost (%d times): %s", number, self.name, times, error)

    def note_error(self, error: Exception) -> None:
        """See `ConnectionPool`."""
        with self.lock:
            self.last_error = str(error)

    def _start_threads(self) -> None:
        while not self._closed and len(self._threads) < self._line.connections:
            thread = SendingThread(self, len(self._threads))
            thread.start()
            self._threads.append(thread)

    def _sample(self, now: float) -> None:
        with self.lock:
            live = {c.connection.number: (c.channel, c.connection) for c in self._connected}
            counters, queued = copy.copy(self.end.counters), self.end.queued_bytes
        if self._workers is not None:
            self._line.least_connections = max(1, 2 * self._workers.count)
        self._line.observe(live, counters, queued, now)
        with self.lock:
            self.end.pacer.rate_bytes_per_s = self._line.own_rate_bytes_per_s
            self._start_threads()

    def state(self) -> LinkState:
        """One direction of the link as it is now."""
        with self.lock:
            counters, queued = copy.copy(self.end.counters), self.end.queued_bytes
            connections = len(self._live)
        return self._line.state(connections, counters, queued)

    def telemetry(self) -> PeerTelemetry:
        """Everything for metrics. Its counters and errors are of one moment."""
        with self.lock:
            counters, queued = copy.copy(self.end.counters), self.end.queued_bytes
            connections = len(self._live)
            dial_errors, last_error = dict(self.dial_errors), self.last_error
        return PeerTelemetry(
            state=self._line.state(connections, counters, queued),
            connections=connections_telemetry(self._line.samples),
            transfers_completed=counters.transfers_completed,
            transfers_failed=counters.transfers_failed,
            chunks_returned=counters.chunks_returned,
            connections_lost=counters.connections_lost,
            dial_errors=dial_errors,
            last_error=last_error,
        )
