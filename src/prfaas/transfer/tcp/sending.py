"""The sending end's threads: each keeps one connection to a peer and feeds it."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from prfaas.core.errors import LinkError, PeerError
from prfaas.transfer.protocol.outbound import OutboundConnection
from prfaas.transfer.tcp.channel import Channel, Waiter, Wakeup
from prfaas.transfer.tcp.dialing import dial

if TYPE_CHECKING:
    from prfaas.transfer.tcp.peer import PeerLink

log = logging.getLogger(__name__)

_BACKOFF_S, _BACKOFF_MAX_S = 0.05, 5.0
_LIVED_S = 0.1
_WRITES_PER_READ = 4
"""While the socket takes all there is, replies are looked for only so often."""


class SenderThread(threading.Thread):
    """Slot ``slot`` of a peer's connections: dials when it is wanted, again when it is lost."""

    def __init__(self, peer: PeerLink, slot: int) -> None:
        super().__init__(name=f"kv-link-to-{peer.name}-{slot}", daemon=True)
        self.slot = slot
        self.channel: Channel | None = None
        self.machine: OutboundConnection | None = None
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
        failures = 0
        while not self._stopping:
            if not self._peer.wants(self.slot):
                self._peer.pause(None)
                continue
            try:
                channel, machine = self._connect()
            except (LinkError, PeerError) as error:
                self._peer.dial_failed(error)
                failures += 1
            else:
                lived_s = self._carry(channel, machine)
                # A peer that lets us in and hangs up is no better than one that is not there.
                failures = 0 if lived_s >= _LIVED_S else failures + 1
            if failures:
                pause_s = min(_BACKOFF_S * 2**failures, _BACKOFF_MAX_S)
                self._peer.pause(pause_s * random.uniform(0.5, 1.0))
        self._wakeup.close()

    def _connect(self) -> tuple[Channel, OutboundConnection]:
        peer = self._peer
        hello = peer.hello()
        dialled = dial(peer.config, peer.context, peer.peer, hello)
        now = time.monotonic()
        peer.welcomed(dialled.welcome)
        machine = OutboundConnection(
            peer.desk,
            hello.connection,
            guard=peer.lock,
            chunk_bytes=min(peer.line.chunk_bytes, peer.line.most_chunk_bytes),
            keepalive_s=peer.config.keepalive_s,
            now=now,
        )
        return dialled.channel, machine

    def _carry(self, channel: Channel, machine: OutboundConnection) -> float:
        """Serve a connection to its end; returns how long it lived, in seconds."""
        peer, began = self._peer, time.monotonic()
        peer.connected(self, channel, machine)
        graceful = False
        try:
            self._serve(channel, machine)
            graceful = True
        except (OSError, LinkError, PeerError) as error:
            log.warning("connection %d to %s lost: %s", machine.number, peer.name, error)
            peer.note_error(error)
        except Exception as error:
            log.exception("a fault of ours on connection %d to %s", machine.number, peer.name)
            peer.note_error(error)
        finally:
            channel.close()
            machine.closed(now=time.monotonic())
            peer.disconnected(self, graceful=graceful)
        return time.monotonic() - began

    def _serve(self, channel: Channel, machine: OutboundConnection) -> None:
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

    def _write(self, channel: Channel, machine: OutboundConnection) -> bool:
        """Write what the socket takes; True when it takes no more."""
        while machine.pending:
            count = channel.send(machine.pending)
            if count is None:
                return True
            machine.sent(count, now=time.monotonic())
        self._peer.pump.drain()
        return False

    def _read(self, channel: Channel, machine: OutboundConnection) -> None:
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
