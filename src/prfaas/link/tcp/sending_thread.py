"""The sending end's threads: each keeps one connection to a peer and feeds it."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.tcp.channel import Channel, Waiter, Wakeup
from prfaas.link.tcp.dialing import Dialled, dial

if TYPE_CHECKING:
    from prfaas.link.tcp.sending_driver import SendingDriver

log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 1.0
"""Between attempts. A receiver waits a few seconds for a sender that is away: a line that is back
must be found sooner."""
_LIVED_S = 0.1
"""A peer that lets us in and hangs up at once is no better than one that is not there."""
_WRITES_PER_READ = 4
"""While the socket takes all there is, replies are looked for only so often."""


class SendingThread(threading.Thread):
    """Slot ``slot`` of a peer's connections: dials when it is wanted, again when it is lost."""

    def __init__(self, peer: SendingDriver, slot: int) -> None:
        super().__init__(name=f"kv-link-to-{peer.name}-{slot}", daemon=True)
        self.slot = slot
        self.channel: Channel | None = None
        self.machine: SendingConnection | None = None
        self._peer = peer
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
        pause_s = _FIRST_PAUSE_S
        while not self._stopping:
            if not self._peer.wants(self.slot):
                self._peer.pause(None)
            elif self._attempt():
                pause_s = _FIRST_PAUSE_S
            else:
                self._peer.pause(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._wakeup.close()

    def _attempt(self) -> bool:
        """Dial, and serve the connection to its end. True if it lived for a while."""
        peer = self._peer
        try:
            hello = peer.hello()
            dialled = dial(peer.config, peer.context, peer.peer, hello)
            began = time.monotonic()
            self._carry(dialled, hello.connection)
            return time.monotonic() - began >= _LIVED_S
        except (LinkError, PeerError) as error:
            peer.dial_failed(error)
        except Exception as error:
            log.exception("a fault of ours on the way to %s", peer.name)
            peer.note_error(error)
        return False

    def _carry(self, dialled: Dialled, number: int) -> None:
        peer, channel = self._peer, dialled.channel
        most_bytes = min(peer.config.max_chunk_bytes, dialled.welcome.max_chunk_bytes)
        machine = SendingConnection(
            peer.end,
            number,
            guard=peer.lock,
            chunk_bytes=min(peer.line.chunk_bytes, most_bytes),
            keepalive_s=peer.config.keepalive_s,
            now=time.monotonic(),
        )
        graceful = False
        try:
            peer.welcomed(dialled.welcome)
            peer.connected(self, channel, machine)
            self._serve(channel, machine)
            graceful = True
        except (OSError, LinkError, PeerError) as error:
            log.warning("connection %d to %s lost: %s", number, peer.name, error)
            peer.note_error(error)
        finally:
            channel.close()
            machine.closed(now=time.monotonic())
            peer.disconnected(self, graceful=graceful)

    def _serve(self, channel: Channel, machine: SendingConnection) -> None:
        waiter = Waiter(channel, self._wakeup)
        peer = self._peer
        check_at = 0.0
        unread = 0
        while not self._stopping:
            now = time.monotonic()
            again_at = machine.fill(now=now)
            idle_s = now - machine.last_work_at
            if machine.idle and peer.retires(self.slot, machine.number, idle_s=idle_s):
                return
            blocked = self._write(channel, machine) if machine.pending else True
            if now >= check_at or not machine.pending:
                check_at = machine.keep_alive(now=now)
            if blocked:
                wake_at = min(check_at, again_at or check_at)
                timeout_s = max(0.0, wake_at - time.monotonic())
                if not waiter.wait(read=True, write=bool(machine.pending), timeout_s=timeout_s):
                    continue
            elif (unread := unread + 1) < _WRITES_PER_READ:
                continue
            unread = 0
            self._read(channel, machine)

    def _write(self, channel: Channel, machine: SendingConnection) -> bool:
        """Write what the socket takes; True when it takes no more."""
        while machine.pending:
            count = channel.send(machine.pending)
            if count is None:
                return True
            machine.sent(count, now=time.monotonic())
        self._peer.pump.drain()
        return False

    def _read(self, channel: Channel, machine: SendingConnection) -> None:
        buffer = machine.get_buffer()
        while True:
            count = channel.recv_into(buffer)
            if count == 0:
                raise LinkError("closed by the peer")
            if count is not None:
                machine.received(count, now=time.monotonic())
            if count is None or count < len(buffer):
                break
        self._peer.pump.drain()
