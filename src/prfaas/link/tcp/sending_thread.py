"""One connection to a peer: a thread that dials when it is wanted, feeds it, and dials again when
it is lost.

The threads of a peer share what their `SendingDriver` owns; `ConnectionPool` is all they know
of it.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.tcp.channel import Carrier
from prfaas.link.tcp.dialing import Dialled
from prfaas.link.tcp.serving_loop import Turns
from prfaas.link.tcp.waiting import Waiter, Wakeup

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
"""Between attempts. A receiver waits a few seconds for a sender that is away: a line that is back
must be found sooner."""
_LIVED_S = 0.1
"""A peer that lets us in and hangs up at once is no better than one that is not there."""
_WRITES_PER_READ = 4
"""While the socket takes all there is, replies are looked for only so often."""


class ConnectionPool(Protocol):
    """What a thread asks of the driver it works for. Every method is thread-safe."""

    name: str
    """The peer's, for logs."""

    def wants(self, slot: int) -> bool:
        """Should this slot of the peer's connections be connected now?"""

    def pause(self, seconds: float | None) -> None:
        """Wait for news (a transfer, a connection, a new configuration, the end); or, after an
        attempt that failed, for the time, which only a new configuration and the end cut short."""

    def dial(self) -> Dialled:
        """A new connection. Raises LinkError or PeerError, which say what to do."""

    def connected(self, thread: SendingThread, dialled: Dialled) -> SendingConnection:
        """Take a connection into use; `disconnected` must follow, also where this raises."""

    def retires(self, slot: int, number: int, *, idle_s: float) -> bool:
        """Should a connection without work be closed?"""

    def deliver_events(self) -> None:
        """Call back the owners of transfers that something has happened to."""

    def disconnected(self, thread: SendingThread, *, graceful: bool) -> None:
        """The connection is closed; ``graceful``: because we wanted it."""

    def dial_failed(self, error: Exception) -> None:
        """An attempt to connect failed; counted by the error's type."""

    def lost(self, number: int, error: Exception) -> None:
        """A connection in use has ended, and nobody wanted it to."""

    def note_error(self, error: Exception) -> None:
        """Something went wrong that transfers should be told if they do not make it."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection in use, with the thread that serves it."""

    thread: SendingThread
    channel: Carrier
    connection: SendingConnection


class SendingThread(threading.Thread):
    """The thread of the connection in slot ``slot`` of a peer's."""

    def __init__(self, pool: ConnectionPool, slot: int) -> None:
        super().__init__(name=f"kv-link-to-{pool.name}-{slot}", daemon=True)
        self.slot = slot
        self._pool = pool
        self._wakeup = Wakeup()
        self._stopping = False

    def stop(self) -> None:
        """Close the connection and end; join afterwards."""
        self._stopping = True
        self._wakeup.set()

    def wake(self) -> None:
        """There may be something to send, or to stop for."""
        self._wakeup.set()

    def run(self) -> None:
        """Dial and serve, again and again, until `stop`."""
        pause_s = _FIRST_PAUSE_S
        while not self._stopping:
            if not self._pool.wants(self.slot):
                self._pool.pause(None)
            elif self._attempt():
                pause_s = _FIRST_PAUSE_S
            else:
                self._pool.pause(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._wakeup.close()

    def _attempt(self) -> bool:
        """Dial, and serve the connection to its end. True if it lived for a while."""
        try:
            dialled = self._pool.dial()
            began = time.monotonic()
            self._carry(dialled)
            return time.monotonic() - began >= _LIVED_S
        except (LinkError, PeerError) as error:
            self._pool.dial_failed(error)
        except Exception as error:
            log.exception("a fault of ours on the way to %s", self._pool.name)
            self._pool.note_error(error)
        return False

    def _carry(self, dialled: Dialled) -> None:
        pool, channel = self._pool, dialled.channel
        connection: SendingConnection | None = None
        graceful = False
        try:
            connection = pool.connected(self, dialled)
            self._serve(channel, connection)
            graceful = True
        except (OSError, LinkError, PeerError) as error:
            pool.lost(dialled.number, error)
        finally:
            channel.close()
            if connection is not None:
                connection.closed(now=time.monotonic())
            pool.disconnected(self, graceful=graceful)

    def _serve(self, channel: Carrier, connection: SendingConnection) -> None:
        turns = self._turns(channel, connection)
        if channel.loop is not None:
            channel.loop.serve(turns, channel.fileno(), self._wakeup)
            return
        waiter = Waiter(channel, self._wakeup)
        with contextlib.suppress(StopIteration):
            wake_at = next(turns)
            while True:
                timeout_s = max(0.0, wake_at - time.monotonic())
                write = bool(connection.pending)
                wake_at = turns.send(waiter.wait(read=True, write=write, timeout_s=timeout_s))

    def _turns(self, channel: Carrier, connection: SendingConnection) -> Turns:
        pool = self._pool
        check_at = 0.0
        unread = 0
        while not self._stopping:
            now = time.monotonic()
            again_at = connection.fill(now=now)
            idle_s = now - connection.last_work_at
            if connection.idle and pool.retires(self.slot, connection.number, idle_s=idle_s):
                return
            blocked = self._write(channel, connection) if connection.pending else True
            if now >= check_at or not connection.pending:
                check_at = connection.keep_alive(now=now)
            if blocked:
                if not (yield min(check_at, again_at or check_at)):
                    continue
            elif (unread := unread + 1) < _WRITES_PER_READ:
                continue
            unread = 0
            self._read(channel, connection)

    def _write(self, channel: Carrier, connection: SendingConnection) -> bool:
        """Write what the socket takes; True when it takes no more."""
        while connection.pending:
            count = channel.send(connection.pending)
            if count is None:
                return True
            connection.sent(count, now=time.monotonic())
        self._pool.deliver_events()
        return False

    def _read(self, channel: Carrier, connection: SendingConnection) -> None:
        buffer = connection.get_buffer()
        while True:
            count = channel.recv_into(buffer)
            if count == 0:
                raise LinkError("closed by the peer")
            if count is not None:
                connection.received(count, now=time.monotonic())
            if count is None or count < len(buffer):
                break
        self._pool.deliver_events()
