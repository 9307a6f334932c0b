"""Receiving from all peers: drives the agent's `ReceivingEnd` with a lock and a thread for each
connection."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable

from prfaas.core.errors import PeerError
from prfaas.core.once_a_second import OnceASecond
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer, TransferSink
from prfaas.link.protocol.frames import Hello
from prfaas.link.protocol.receiving_connection import PayloadReader, ReceivingConnection
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.receiving_records import (
    Completed,
    Event,
    Failed,
    ReceivingCounters,
    Stored,
    Withdrawn,
)
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.link.tcp.event_pump import EventPump
from prfaas.link.tcp.line_division import LineDivision
from prfaas.link.tcp.link_test_memory import ScratchMemory, is_link_test
from prfaas.link.tcp.receiving_thread import ReceivingThread, ServingThread
from prfaas.link.tcp.remote_receiving import RemoteReceivingThread
from prfaas.link.tcp.worker import Worker
from prfaas.link.tcp.worker_messages import FromConnection, Pipe

log = logging.getLogger(__name__)

_JOIN_S = 2.0
"""So long a connection that is to end may say its last words."""
_SHARE = 2
"""One peer has no more than this part of all connections: others come in."""


class ReceivingDriver:
    """All incoming connections of an agent; every method may be called from any thread.

    ``lock`` guards the receiving end. The sink is called outside of it.
    """

    def __init__(self, config: TcpLinkConfig, sink: TransferSink) -> None:
        self.lock = threading.Lock()
        self.end = ReceivingEnd(
            max_transfers=config.max_incoming_transfers, peer_grace_s=config.peer_grace_s
        )
        self.silence_s = config.silence_s
        self.most_connections = config.max_incoming_connections
        self.accept_from = config.accept_from
        """See `TcpLinkConfig`; may be set to other values at any time."""
        pump: EventPump[Event] = EventPump(self.lock, self.end.events, self._deliver)
        self.deliver_events = pump.drain
        self._config, self._sink = config, sink
        self.division = LineDivision(config, self.lock)
        self._threads: set[ServingThread] = set()
        self._lines = OnceASecond()
        self._closed = False

    def admit(self, channel: Channel, hello: Hello) -> None:
        """Serve an authenticated connection. Raises PeerError if there are too many."""
        self._check_room(hello.name)
        self._begin(ReceivingThread(self, channel, hello))

    def admit_carried(self, worker: Worker, pipe: Pipe[FromConnection], hello: Hello) -> None:
        """The same of one that a link worker carries."""
        gone = worker.count()
        try:
            self._check_room(hello.name)
            self._begin(RemoteReceivingThread(self, pipe, hello, gone, worker))
        except PeerError:
            gone(True)
            raise

    def remake_own(self) -> None:
        """Close the connections that no worker carries, or one that has too many: their senders
        come back at once."""
        with self.lock:
            threads = list(self._threads)
        for thread in threads:
            if thread.surplus():
                thread.stop()

    def _check_room(self, peer: str) -> None:
        most = self.most_connections
        with self.lock:
            if self._closed or len(self._threads) >= most:
                raise PeerError("too many connections to this agent")
            own = sum(thread.connection.peer == peer for thread in self._threads)
            if own >= max(1, most // _SHARE):
                raise PeerError(f"too many connections from {peer!r}")

    def _begin(self, thread: ServingThread) -> None:
        with self.lock:
            self._threads.add(thread)
            thread.start()
            closed = self._closed
        if closed:  # Since there was room.
            thread.stop()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._threads)

    def counters(self) -> ReceivingCounters:
        """Totals since the start, all of one moment."""
        with self.lock:
            return copy.copy(self.end.counters)

    def ask(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        """The sink's answer to an offer; ours to who may push no more, though it is connected."""
        if self.accept_from is not None and peer not in self.accept_from:
            return Refusal(f"agent {peer!r} may not push to this one any more")
        # The sink must have heard of an older epoch's end before it is asked about the next.
        self.deliver_events()
        return ScratchMemory() if is_link_test(offer) else self._sink.offered(peer, offer)

    def abandon(self, key: TransferKey, why: str) -> None:
        """Stop receiving a transfer; unknown keys are ignored."""
        with self.lock:
            self.end.abandon(key, why)
        self.deliver_events()

    def tick(self, *, now: float) -> None:
        """Every 20 ms, from the link's ticker."""
        with self.lock:
            self.end.tick(now=now)
            self.division.tick(now=now)
        self.deliver_events()

    def close(self) -> None:
        """Every transfer fails, every connection is closed, every thread ends."""
        with self.lock:
            self._closed = True
            self.end.close("the receiving agent shuts down")
            threads = list(self._threads)
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join(_JOIN_S)
            thread.hang_up()
            thread.join()
        self.deliver_events()

    # The `ConnectionOwner` of the threads.

    def connected(
        self, hello: Hello, wake: Callable[[], None], payloads: PayloadReader | None = None
    ) -> ReceivingConnection:
        """See `ConnectionOwner`."""
        connection = ReceivingConnection(
            self.end,
            hello.name,
            hello.session,
            hello.connection,
            guard=self.lock,
            ask=self.ask,
            wake=wake,
            max_chunk_bytes=self._config.max_chunk_bytes,
            demanded=self.division.demanded,
            payloads=payloads,
        )
        with self.lock:
            self.division.connected(hello.name, connection)
        return connection

    def disconnected(self, thread: ServingThread, error: Exception | None) -> None:
        """See `ConnectionOwner`."""
        now, gone, times = time.monotonic(), thread.connection, 0
        with self.lock:
            self._threads.discard(thread)
            self.division.disconnected(gone.peer, gone, now=now)
            if error is not None:
                times = self._lines.times((gone.peer, type(error)), now)
        if times:
            blame = logging.WARNING if isinstance(error, PeerError) else logging.INFO
            log.log(blame, "connection from %s ended (%d times): %s", gone.peer, times, error)
        self.deliver_events()

    def _deliver(self, event: Event) -> None:
        match event:
            case Withdrawn(key, why):
                self._sink.withdrawn(key, why)
            case _ if is_link_test(event.offer):
                pass
            case Stored(offer, offset, length):
                self._sink.stored(offer.key, offset, length)
            case Completed(offer):
                self._sink.completed(offer.key)
            case Failed(offer, why):
                self._sink.failed(offer.key, why)
