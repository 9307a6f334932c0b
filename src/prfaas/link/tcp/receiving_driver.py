"""The receiving end's threads: one per connection, from the socket straight into the arena."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.api import Reception, Refusal, TransferKey, TransferOffer, TransferSink
from prfaas.link.protocol.frames import HEADER_BYTES, Hello, Kind, reason
from prfaas.link.protocol.receiving_connection import ReceivingConnection
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.receiving_records import Completed, Event, Failed, Stored, Withdrawn
from prfaas.link.tcp.channel import Channel, Waiter, Wakeup
from prfaas.link.tcp.config import TcpLinkConfig
from prfaas.link.tcp.event_pump import EventPump

log = logging.getLogger(__name__)

_MAX_OUTPUT_BYTES = 64 * 1024
_REPLIES_BYTES = 8 * HEADER_BYTES
"""So many replies go at once while there is more to read; all of them before a wait."""
LINK_TEST_LAYOUT = "link-test"
"""A transfer of this layout is a test of the line: verified and forgotten (see `selftest`)."""


class _Forgetful:
    """The `Reception` of link tests: each connection's thread reads into scratch of its own."""

    def __init__(self) -> None:
        self._scratch = threading.local()

    def views(self, flat_offset: int, length: int) -> Sequence[memoryview]:
        memory: memoryview | None = getattr(self._scratch, "memory", None)
        if memory is None or len(memory) < length:
            self._scratch.memory = memory = memoryview(bytearray(length))
        return (memory[:length],)


class ReceivingDriver:
    """All incoming connections of an agent and the end they share."""

    def __init__(self, config: TcpLinkConfig, sink: TransferSink) -> None:
        self.config, self.sink = config, sink
        self.lock = threading.Lock()
        self.end = ReceivingEnd(
            max_transfers=config.max_incoming_transfers, peer_grace_s=config.peer_grace_s
        )
        self.pump: EventPump[Event] = EventPump(self.lock, self.end.events, self._deliver)
        self.lost_to_errors = 0
        self._threads: set[ReceivingThread] = set()
        self._closed = False

    def admit(self, channel: Channel, hello: Hello) -> None:
        """Serve an authenticated connection. Raises PeerError if there are too many."""
        with self.lock:
            if self._closed or len(self._threads) >= self.config.max_incoming_connections:
                raise PeerError("too many connections to this agent")
        thread = ReceivingThread(self, channel, hello)
        with self.lock:
            self._threads.add(thread)
        thread.start()

    def ended(self, thread: ReceivingThread, error: Exception | None) -> None:
        """A connection's thread is done with its socket."""
        with self.lock:
            self._threads.discard(thread)
            if error is not None:
                self.lost_to_errors += 1
        self.pump.drain()

    @property
    def connections(self) -> int:
        return len(self._threads)

    def ask(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        # The sink must have heard of an older epoch's end before it is asked about the next.
        self.pump.drain()
        return _Forgetful() if _is_test(offer) else self.sink.offered(peer, offer)

    def abandon(self, key: TransferKey, why: str) -> None:
        with self.lock:
            self.end.abandon(key, why)
        self.pump.drain()

    def tick(self, now: float) -> None:
        with self.lock:
            self.end.tick(now=now)
        self.pump.drain()

    def close(self) -> None:
        with self.lock:
            self._closed = True
            self.end.close("the receiving agent shuts down")
            threads = list(self._threads)
        for thread in threads:
            thread.stop()
        for thread in threads:
            thread.join()
        self.pump.drain()

    def _deliver(self, event: Event) -> None:
        match event:
            case Withdrawn(key, why):
                self.sink.withdrawn(key, why)
            case _ if _is_test(event.offer):
                pass
            case Stored(offer, offset, length):
                self.sink.stored(offer.key, offset, length)
            case Completed(offer):
                self.sink.completed(offer.key)
            case Failed(offer, why):
                self.sink.failed(offer.key, why)


def _is_test(offer: TransferOffer) -> bool:
    return offer.layout_fingerprint == LINK_TEST_LAYOUT


class ReceivingThread(threading.Thread):
    """Reads one connection until it ends."""

    def __init__(self, receivers: ReceivingDriver, channel: Channel, hello: Hello) -> None:
        super().__init__(name=f"kv-link-in-{hello.name}-{hello.connection}", daemon=True)
        self._receivers, self._channel = receivers, channel
        self._wakeup = Wakeup()
        self._stopping = False
        try:
            self._machine = ReceivingConnection(
                receivers.end,
                hello.name,
                hello.session,
                hello.connection,
                guard=receivers.lock,
                ask=receivers.ask,
                wake=self._wake,
                max_chunk_bytes=receivers.config.max_chunk_bytes,
            )
        except PeerError:
            self._wakeup.close()
            raise

    def stop(self) -> None:
        self._stopping = True
        self._wakeup.set()

    def run(self) -> None:
        error: Exception | None = None
        try:
            self._serve()
        except (OSError, PeerError, LinkError) as problem:
            error = problem
            blame = logging.WARNING if isinstance(problem, PeerError) else logging.INFO
            log.log(blame, "connection from %s ended: %s", self._machine.peer, problem)
            if isinstance(problem, PeerError):
                with contextlib.suppress(OSError):
                    self._channel.send([memoryview(reason(Kind.REJECT, str(problem)))])
        except Exception as problem:
            error = problem
            log.exception("a fault of ours on a connection from %s", self._machine.peer)
        finally:
            self._channel.close()
            self._machine.closed(now=time.monotonic())
            self._receivers.ended(self, error)
            self._wakeup.close()

    def _serve(self) -> None:
        machine, channel = self._machine, self._channel
        waiter = Waiter(channel, self._wakeup)
        silence_s = 4 * self._receivers.config.keepalive_s
        output: list[memoryview] = []
        last_read_at = time.monotonic()
        while not (self._stopping or machine.severed):
            may_read = not output or sum(map(len, output)) < _MAX_OUTPUT_BYTES
            count = channel.recv_into(machine.get_buffer()) if may_read else None
            if count == 0:
                return
            if count is not None:
                last_read_at = time.monotonic()
                machine.received(count, now=last_read_at)
            if output or machine.output_bytes >= (_REPLIES_BYTES if count else 1):
                output = self._write(machine, channel, output)
            self._receivers.pump.drain()
            if count is None:
                left = last_read_at + silence_s - time.monotonic()
                if left <= 0:
                    raise LinkError(f"silent for {silence_s:.0f} s")
                waiter.wait(read=may_read, write=bool(output), timeout_s=left)
        self._write(machine, channel, output)  # last words, as far as the socket takes them

    def _write(
        self, machine: ReceivingConnection, channel: Channel, output: list[memoryview]
    ) -> list[memoryview]:
        if machine.output_bytes:
            output.append(memoryview(machine.take_output()))
        while output:
            count = channel.send(output)
            if count is None:
                break
            output = _after(output, count)
        return output

    def _wake(self) -> None:
        # Its own thread looks at the output anyway before it waits.
        if threading.current_thread() is not self:
            self._wakeup.set()


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    rest = list(views)
    while rest and count >= len(rest[0]):
        count -= len(rest.pop(0))
    if count:
        rest[0] = rest[0][count:]
    return rest
