"""Sending to one peer: its end, its connections, what is known of the line."""

from __future__ import annotations

import copy
import itertools
import logging
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable

from prfaas.core.errors import CallerError, LinkError
from prfaas.link.api import LinkState, TransferOffer
from prfaas.link.protocol.frames import Hello, Welcome
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import SendingTransfer
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.event_pump import EventPump
from prfaas.link.tcp.line_control import LineControl
from prfaas.link.tcp.sending_thread import SendingThread
from prfaas.link.tcp.telemetry import ConnectionTelemetry, PeerTelemetry

log = logging.getLogger(__name__)

_JOIN_S = 2.0
_SAMPLE_S = 0.1


class SendingDriver:
    """One peer to send to. ``lock`` guards the end and the fields below it."""

    def __init__(
        self,
        name: str,
        peer: PeerConfig,
        config: TcpLinkConfig,
        context: ssl.SSLContext | None,
    ) -> None:
        self.name, self.config, self.context = name, config, context
        self.lock = threading.Lock()
        self.end = SendingEnd(rate_bytes_per_s=peer.rate_bytes_per_s)
        self.pump: EventPump[Callable[[], None]] = EventPump(
            self.lock, self.end.events, lambda callback: callback()
        )
        self.dial_errors: Counter[str] = Counter()
        self.last_error = ""
        self._peer = peer
        self._news = threading.Condition(self.lock)
        self._session = secrets.randbits(63)
        self._numbers = itertools.count(1)
        self._incarnation: int | None = None
        self._live: dict[int, SendingThread] = {}
        self._closed = False
        self._sample_at = time.monotonic()
        self.line = LineControl(name, peer, config)
        self._threads: list[SendingThread] = []
        with self.lock:
            self._staff()

    @property
    def peer(self) -> PeerConfig:
        """Where it is, and how it is sent to."""
        return self._peer

    def configure(self, peer: PeerConfig) -> None:
        """New address, rate or number of connections."""
        with self.lock:
            moved = peer.address != self._peer.address
            self._peer = peer
            self.end.pacer.rate_bytes_per_s = peer.rate_bytes_per_s
            self.line.peer = peer
            self._staff()
            live = list(self._live.values())
            self._news.notify_all()
        for thread in live:
            if moved and thread.channel is not None:
                thread.channel.hang_up()
            thread.wake()

    def open(
        self,
        offer: TransferOffer,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> Handle:
        """Announce a transfer. Raises LinkError when the link is closed."""
        with self.lock:
            if self._closed:
                raise LinkError("the link is closed")
            transfer = self.end.open(offer, on_complete, on_failed, now=time.monotonic())
            self._news.notify_all()
        self.rouse()
        return Handle(self, transfer)

    def rouse(self, at_most: int = 64) -> None:
        """Wake connections that wait for something to send."""
        for thread in list(self._live.values()):
            machine = thread.machine
            if machine is not None and machine.idle and at_most > 0:
                at_most -= 1
                thread.wake()

    def tick(self, now: float) -> None:
        """Every 20 ms, from the link's ticker."""
        with self.lock:
            self.end.tick(now=now, trouble=self.last_error)
            sendable = self.end.sendable
        if sendable:
            self.rouse(1)
        self.pump.drain()
        if now >= self._sample_at:
            self._sample_at = max(self._sample_at + _SAMPLE_S, now)
            self._sample(now)

    def close(self) -> None:
        with self.lock:
            self._closed = True
            self.end.fail_all("the link is closed")
            self._news.notify_all()
            threads = list(self._threads)
        for thread in threads:
            thread.stop()
        for thread in threads:
            # One that is just dialling ends by itself, when the peer answers or its time is up.
            thread.join(_JOIN_S)
        self.pump.drain()

    # For the connections' threads.

    def hello(self) -> Hello:
        with self.lock:
            number = next(self._numbers)
        return Hello(self.config.name, self.name, self._session, number)

    def welcomed(self, welcome: Welcome) -> None:
        """Before anything is sent to it: a receiver that has restarted has forgotten all."""
        with self.lock:
            if self._incarnation not in (None, welcome.incarnation):
                self.end.restarted(f"{self.name} has restarted")
            self._incarnation = welcome.incarnation
            self.line.most_chunk_bytes = min(self.config.max_chunk_bytes, welcome.max_chunk_bytes)
            self.last_error = ""
        self.pump.drain()

    def wants(self, slot: int) -> bool:
        with self.lock:
            return not self._closed and self._wants(slot)

    def retires(self, slot: int, number: int, *, idle_s: float) -> bool:
        """Should a connection without work be closed?"""
        with self.lock:
            if self.end.carries(number):
                return False
            return slot >= self.line.connections or (slot > 0 and idle_s >= self.config.idle_s)

    def pause(self, seconds: float | None) -> None:
        """Wait for news (a transfer, a new configuration, the end), or for the time."""
        with self.lock:
            if not self._closed:
                self._news.wait(seconds)

    def connected(
        self, thread: SendingThread, channel: Channel, machine: SendingConnection
    ) -> None:
        self.line.introduce(channel)
        with self.lock:
            thread.channel, thread.machine = channel, machine
            self._live[thread.slot] = thread
            self._staff()
            self._news.notify_all()

    def disconnected(self, thread: SendingThread, *, graceful: bool) -> None:
        with self.lock:
            self._live.pop(thread.slot, None)
            thread.channel = thread.machine = None
            if not graceful:
                self.end.counters.connections_lost += 1
        self.rouse()
        self.pump.drain()

    def dial_failed(self, error: Exception) -> None:
        self.dial_errors[type(error).__name__] += 1
        if str(error) != self.last_error:
            log.warning("link to %s: %s", self.name, error)
        self.note_error(error)

    def note_error(self, error: Exception) -> None:
        self.last_error = str(error)

    def _wants(self, slot: int) -> bool:
        """While nothing is connected the first slot alone tries, for all."""
        wanted = slot < self.line.connections and self.end.busy and bool(self._live)
        return slot == 0 or wanted

    def _staff(self) -> None:
        while not self._closed and len(self._threads) < self.line.connections:
            thread = SendingThread(self, len(self._threads))
            thread.start()
            self._threads.append(thread)

    def _sample(self, now: float) -> None:
        with self.lock:
            live = {
                t.machine.number: (t.channel, t.machine)
                for t in self._live.values()
                if t.channel is not None and t.machine is not None
            }
            counters, queued = copy.copy(self.end.counters), self.end.queued_bytes
        self.line.observe(live, counters, queued, now)
        with self.lock:
            self.end.pacer.rate_bytes_per_s = self.line.rate_bytes_per_s
            self._staff()

    def state(self) -> LinkState:
        with self.lock:
            counters, queued = copy.copy(self.end.counters), self.end.queued_bytes
            connections = len(self._live)
        return self.line.state(connections, counters, queued)

    def telemetry(self) -> PeerTelemetry:
        counters = self.end.counters
        return PeerTelemetry(
            state=self.state(),
            connections=tuple(
                ConnectionTelemetry(
                    number,
                    s.rtt_s,
                    s.min_rtt_s,
                    s.retransmits,
                    s.delivery_rate_bytes_per_s,
                    s.window_bytes,
                    s.unsent_bytes,
                    s.sent_bytes,
                )
                for number, s in self.line.samples.items()
            ),
            transfers_completed=counters.transfers_completed,
            transfers_failed=counters.transfers_failed,
            chunks_returned=counters.chunks_returned,
            connections_lost=counters.connections_lost,
            dial_errors=dict(self.dial_errors),
            last_error=self.last_error,
        )


class Handle:
    """The producer's end of a transfer (`link.api.SendingTransfer`)."""

    def __init__(self, peer: SendingDriver, transfer: SendingTransfer) -> None:
        self._peer, self._transfer = peer, transfer

    def add(self, flat_offset: int, view: memoryview, on_released: Callable[[], None]) -> None:
        """Queue bytes. Raises CallerError for a range outside the transfer."""
        view = view.cast("B")
        total = self._transfer.offer.total_bytes
        if flat_offset < 0 or flat_offset + len(view) > total:
            raise CallerError(
                f"range [{flat_offset}, {flat_offset + len(view)}) is outside [0, {total})"
            )
        with self._peer.lock:
            self._peer.end.add(self._transfer, flat_offset, view, on_released)
        self._peer.rouse(1 + len(view) // (256 * 1024))
        self._peer.pump.drain()

    def cancel(self, reason: str) -> None:
        with self._peer.lock:
            self._peer.end.cancel(self._transfer, reason)
        self._peer.rouse(1)
        self._peer.pump.drain()

    @property
    def acknowledged_bytes(self) -> int:
        return self._transfer.acknowledged_bytes
