"""One connection of the receiving end: a thread that reads from the socket straight into the arena.

The threads share what their `ReceivingDriver` owns; `ConnectionOwner` is all they know of it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import HEADER_BYTES, Hello, Kind, reason
from prfaas.link.protocol.receiving_connection import PayloadReader, ReceivingConnection
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.waiting import Waiter, Wakeup

log = logging.getLogger(__name__)

_MAX_OUTPUT_BYTES = 64 * 1024
"""While so much waits to be written nothing more is read: bounds what a peer that never reads its
replies can make us hold."""
_REPLIES_BYTES = 8 * HEADER_BYTES
"""So many replies go at once while there is more to read; all of them before a wait."""


class ServingThread(Protocol):
    """What its owner knows of a thread that serves a connection."""

    connection: ReceivingConnection

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def surplus(self) -> bool: ...

    def hang_up(self) -> None: ...

    def join(self, timeout: float | None = None) -> None: ...


class ConnectionOwner(Protocol):
    """What a thread asks of the driver it works for. Every method is thread-safe."""

    silence_s: float
    """A connection that says nothing for so long is given up."""

    def connected(
        self, hello: Hello, wake: Callable[[], None], payloads: PayloadReader | None = None
    ) -> ReceivingConnection:
        """Take a connection into use; its payloads may be read elsewhere. Raises PeerError for one
        that may not be."""

    def deliver_events(self) -> None:
        """Tell the sink what has happened."""

    def disconnected(self, thread: ServingThread, error: Exception | None) -> None:
        """The connection is closed; ``error``: because of it, which is to be logged."""


class ReceivingThread(threading.Thread):
    """Reads one connection until it ends. Raises PeerError for one that may not be."""

    def __init__(self, owner: ConnectionOwner, channel: Channel, hello: Hello) -> None:
        super().__init__(name=f"kv-link-in-{hello.name}-{hello.connection}", daemon=True)
        self._owner, self._channel = owner, channel
        self._wakeup = Wakeup()
        self._stopping = False
        try:
            self.connection = owner.connected(hello, self._wake)
        except PeerError:
            self._wakeup.close()
            raise

    def surplus(self) -> bool:
        """Whether another process should carry it, once there is one."""
        return True

    def stop(self) -> None:
        """Close the connection and end; join afterwards."""
        self._stopping = True
        self._wakeup.set()

    def hang_up(self) -> None:
        """End the connection, where a peer that changes its keys without end lets nobody `stop`."""
        self._channel.hang_up()

    def run(self) -> None:
        """Serve the connection until it ends or `stop`."""
        error: Exception | None = None
        try:
            self._serve()
        except (OSError, PeerError, LinkError) as problem:
            error = problem
            if isinstance(problem, PeerError):
                with contextlib.suppress(OSError):
                    self._channel.send([memoryview(reason(Kind.REJECT, str(problem)))])
        except Exception as problem:
            error = problem
            log.exception("a fault of ours on a connection from %s", self.connection.peer)
        finally:
            self._channel.close()
            self.connection.closed(now=time.monotonic())
            self._owner.disconnected(self, error)
            self._wakeup.close()

    def _serve(self) -> None:
        connection, channel, owner = self.connection, self._channel, self._owner
        waiter = Waiter(channel, self._wakeup)
        output: list[memoryview] = []
        last_read_at = time.monotonic()
        while not (self._stopping or connection.severed):
            may_read = not output or sum(map(len, output)) < _MAX_OUTPUT_BYTES
            buffer = connection.get_buffer()
            count = channel.recv_into(buffer) if may_read else None
            if count == 0:
                return
            if count is not None:
                last_read_at = time.monotonic()
                connection.received(count, now=last_read_at)
            # After a short read nothing more is there: to ask costs a call and an exception.
            more = count == len(buffer)
            if output or connection.output_bytes >= (_REPLIES_BYTES if more else 1):
                output = self._write(output)
            owner.deliver_events()
            if not more:
                left = last_read_at + owner.silence_s - time.monotonic()
                if left <= 0:
                    raise LinkError(f"silent for {owner.silence_s:.0f} s")
                waiter.wait(read=may_read, write=bool(output), timeout_s=left)
        self._write(output)  # last words, as far as the socket takes them

    def _write(self, output: list[memoryview]) -> list[memoryview]:
        """Write what the socket takes; returns what is left."""
        if self.connection.output_bytes:
            output.append(memoryview(self.connection.take_output()))
        while output:
            count = self._channel.send(output)
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
