"""One connection of the sending end, from the receiver's WELCOME on: frames out, replies in.

Theory of operation. The driver calls ``fill`` for something to write, writes from ``pending`` (the
header and then the producer's own memory) and reports with ``sent``; it reads into
``get_buffer()`` and reports with ``received``. Many connections share a `SendingDesk`, so calls
into it run under ``guard``. A chunk's checksum is computed outside of it, once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from xxhash import xxh3_64_intdigest

from prfaas.core.errors import LinkError, PeerError
from prfaas.transfer.protocol.frames import FrameReader, Kind, Reason, decode, pack
from prfaas.transfer.protocol.outgoing import Chunk
from prfaas.transfer.protocol.sender import SendingDesk

_SILENCES = 3


class OutboundConnection:
    """``chunk_bytes`` is the size of the next chunks cut for it; the driver adapts it."""

    def __init__(
        self,
        desk: SendingDesk,
        number: int,
        *,
        guard: AbstractContextManager[object],
        chunk_bytes: int,
        keepalive_s: float,
        now: float,
    ) -> None:
        self.number, self.chunk_bytes = number, chunk_bytes
        self.pending: list[memoryview] = []
        self.last_work_at = now
        self.bytes_sent = 0
        self._desk, self._guard = desk, guard
        self._reader = FrameReader(max_chunk_bytes=1)
        self._chunk: Chunk | None = None
        self._keepalive_s = keepalive_s
        self._last_sign_at = self._last_ping_at = now
        self._pinging = False

    def fill(self, *, now: float) -> float | None:
        """Have something in ``pending`` if there is anything to send; else returns when to try
        again (None: when woken)."""
        if self.pending:
            return None
        with self._guard:
            work, again_at = self._desk.take(self.number, chunk_bytes=self.chunk_bytes, now=now)
        if work is None:
            return again_at
        self.last_work_at = now
        if isinstance(work, bytes):
            self.pending = [memoryview(work)]
            return None
        if work.digest is None:
            work.digest = xxh3_64_intdigest(work.view)
        header = pack(
            Kind.DATA,
            length=len(work.view),
            handle=work.transfer.handle,
            offset=work.offset,
            digest=work.digest,
        )
        self._chunk = work
        self.pending = [memoryview(header), work.view]
        return None

    def sent(self, count: int, *, now: float) -> None:
        """The first ``count`` bytes of ``pending`` have been written to the socket."""
        self.bytes_sent += count
        if not self._pinging:  # a socket takes pings long after the line is dead
            self._last_sign_at = now
        while count:
            head = self.pending[0]
            if count < len(head):
                self.pending[0] = head[count:]
                return
            count -= len(head)
            del self.pending[0]
        if not self.pending:
            self._pinging = False
            self._written()

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the socket belong."""
        return self._reader.get_buffer()

    def received(self, count: int, *, now: float) -> None:
        """``count`` bytes were read. Raises PeerError: the connection must be closed."""
        self._last_sign_at = now
        frame = self._reader.received(count)
        if frame is None or frame.header.kind is Kind.PONG:
            return
        text, retry = "", False
        if frame.header.kind in (Kind.REFUSE, Kind.FAILED):
            said = decode(frame.body, Reason)
            text, retry = said.reason, said.retry
        elif frame.data_follows:
            raise PeerError("a receiver does not send DATA")
        with self._guard:
            self._desk.heard(self.number, frame.header, text, retry=retry, now=now)

    def keep_alive(self, *, now: float) -> float:
        """Ask for a sign of life where it has been silent; returns when to call again.

        Raises LinkError when nothing was heard and nothing could be written for too long.
        """
        silent_s = now - self._last_sign_at
        if silent_s >= _SILENCES * self._keepalive_s:
            raise LinkError(f"no sign of life for {silent_s:.0f} s")
        quiet_since = max(self._last_sign_at, self._last_ping_at)
        if now - quiet_since >= self._keepalive_s and not self.pending:
            self.pending = [memoryview(pack(Kind.PING))]
            self._last_ping_at, self._pinging = now, True
        return now + self._keepalive_s

    def closed(self, *, now: float) -> None:
        """The socket is closed: what it carried is asked for over the others."""
        self.pending = []
        self._written()
        with self._guard:
            self._desk.lost(self.number, now=now)

    def _written(self) -> None:
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            with self._guard:
                self._desk.written(chunk)
