"""One connection of the sending end, from the receiver's WELCOME on: frames out, replies in.

Theory of operation. The driver calls ``fill`` for something to write, writes from ``pending``
(headers and the producer's own memory) and reports with ``sent``; it reads into ``get_buffer()``
and reports with ``received``. Many connections share a `SendingEnd`, so calls into it run under
``guard``. A chunk's checksum is computed outside of it, once, right before the write that reads
the same bytes again. Small chunks are taken several at a time, and all replies that are there are
heard at once: what a chunk costs beside its bytes decides the speed of a fast line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from xxhash import xxh3_64_intdigest

from prfaas.core.errors import LinkError, PeerError
from prfaas.link.protocol.frames import FrameReader, Header, Kind, Reason, decode, pack
from prfaas.link.protocol.line_share import Grant
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import Chunk

_SILENCES = 3
"""Keep-alive periods without a sign of life before the connection is given up: a line may stall for
one or two and come back."""
_MOST_FRAMES = 16
"""Of one write, two buffers each: well within the 64 that one system call takes."""
_INPUT_BYTES = 4096
"""Some 90 replies: more than arrive between two looks."""
_NO_REASON = Reason("")


def nothing_to_say(*, now: float) -> bytes | None:
    """Where no line is shared, there are no demands."""
    return None


def nobody_asked(grant: Grant, *, now: float) -> None:
    """Where no line is shared, grants say nothing."""


class SayWord(Protocol):
    """Called under the guard: a frame about the line that is to go first, or None."""

    def __call__(self, *, now: float) -> bytes | None: ...


class HearGrant(Protocol):
    """Called without the guard, with what the receiver says of the line's rate."""

    def __call__(self, grant: Grant, *, now: float) -> None: ...


class SendingConnection:
    """``chunk_bytes`` is the size of the next chunks cut for it; the driver adapts it. ``header``
    makes a chunk's DATA header."""

    def __init__(
        self,
        end: SendingEnd,
        number: int,
        *,
        guard: AbstractContextManager[object],
        chunk_bytes: int,
        keepalive_s: float,
        now: float,
        word: SayWord = nothing_to_say,
        granted: HearGrant = nobody_asked,
        header: Callable[[Chunk], bytes] | None = None,
    ) -> None:
        self._header = header or header_of
        self._word, self._granted = word, granted
        self.number, self.chunk_bytes = number, chunk_bytes
        self.batch_bytes = 0
        """Take about so much at once where it is more than a chunk."""
        self.pending: list[memoryview] = []
        self.idle = False
        """There was nothing to send: wake the driver when there is."""
        self.last_work_at = now
        self.bytes_sent = 0
        self._end, self._guard = end, guard
        self._reader = FrameReader(max_chunk_bytes=1)
        self._input = memoryview(bytearray(_INPUT_BYTES))
        self._ends: deque[Chunk | None] = deque()
        """For each of ``pending``: the chunk that is written when it is."""
        self._keepalive_s = keepalive_s
        self._last_sign_at = self._last_ping_at = now
        self._pinging = False

    def fill(self, *, now: float) -> float | None:
        """Have something in ``pending`` if there is anything to send, together less than one and a
        half chunks, or half a chunk more than ``batch_bytes``; else returns when to try
        again (None: when woken)."""
        if self.pending:
            return None
        taken: list[bytes | Chunk] = []
        wanted = max(self.batch_bytes - self.chunk_bytes // 2, self.chunk_bytes // 2)
        with self._guard:
            word = self._word(now=now)
            while True:
                work, again_at = self._end.take(self.number, chunk_bytes=self.chunk_bytes, now=now)
                self.idle = work is None and not taken
                if work is None:
                    break
                taken.append(work)
                wanted -= 0 if isinstance(work, bytes) else len(work.view)
                if wanted <= 0 or len(taken) == _MOST_FRAMES:
                    break
        if word is not None:
            self._append(memoryview(word), None)
        if not taken:
            # A socket takes words, like pings, long after the line is dead.
            self._pinging = word is not None
            return again_at
        self.last_work_at = now
        for work in taken:
            if isinstance(work, bytes):
                self._append(memoryview(work), None)
            else:
                self._append(memoryview(self._header(work)), None)
                self._append(work.view, work)
        return None

    def _append(self, view: memoryview, ends: Chunk | None) -> None:
        self.pending.append(view)
        self._ends.append(ends)

    def sent(self, count: int, *, now: float) -> None:
        """The first ``count`` bytes of ``pending`` have been written to the socket."""
        self.bytes_sent += count
        if not self._pinging:  # a socket takes pings long after the line is dead
            self._last_sign_at = now
        pending, done = self.pending, 0
        while done < len(pending) and count >= len(pending[done]):
            count -= len(pending[done])
            done += 1
        del pending[:done]
        if count:
            pending[0] = pending[0][count:]
        if not pending:
            self._pinging = False
        self._written(done)

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the socket belong."""
        return self._input

    def received(self, count: int, *, now: float) -> None:
        """``count`` bytes were read. Raises PeerError: the connection must be closed."""
        self._last_sign_at = now
        news = list(self._replies(self._input[:count], now))
        if news:
            with self._guard:
                for header, said in news:
                    self._end.heard(self.number, header, said.reason, retry=said.retry, now=now)

    def _replies(self, data: memoryview, now: float) -> Iterator[tuple[Header, Reason]]:
        """The frames that ``data`` completes."""
        reader = self._reader
        while data:
            room = reader.get_buffer()
            size = min(len(room), len(data))
            room[:size] = data[:size]
            data = data[size:]
            frame = reader.received(size)
            if frame is None or frame.header.kind is Kind.PONG:
                continue
            if frame.header.kind is Kind.GRANT:
                self._granted(decode(frame.body, Grant), now=now)
                continue
            if frame.data_follows:
                raise PeerError("a receiver does not send DATA")
            if frame.header.kind is Kind.REJECT:
                raise PeerError(f"rejected: {decode(frame.body, Reason).reason}")
            if frame.header.kind in (Kind.REFUSE, Kind.FAILED):
                yield frame.header, decode(frame.body, Reason)
            else:
                yield frame.header, _NO_REASON

    def keep_alive(self, *, now: float) -> float:
        """Ask for a sign of life where it has been silent; returns when to call again.

        Raises LinkError when nothing was heard and nothing could be written for too long.
        """
        silent_s = now - self._last_sign_at
        if silent_s >= _SILENCES * self._keepalive_s:
            raise LinkError(f"no sign of life for {silent_s:.0f} s")
        quiet_since = max(self._last_sign_at, self._last_ping_at)
        if now - quiet_since >= self._keepalive_s and not self.pending:
            self._append(memoryview(pack(Kind.PING)), None)
            self._last_ping_at, self._pinging = now, True
        return now + self._keepalive_s

    def closed(self, *, now: float) -> None:
        """The socket is closed: what it carried is asked for over the others."""
        self.pending.clear()
        self._written(len(self._ends))
        with self._guard:
            self._end.lost(self.number, now=now)

    def _written(self, count: int) -> None:
        ended = [self._ends.popleft() for _ in range(count)]
        chunks = [chunk for chunk in ended if chunk is not None]
        if chunks:
            with self._guard:
                for chunk in chunks:
                    self._end.written(chunk)


def header_of(chunk: Chunk) -> bytes:
    """A chunk's DATA header."""
    if chunk.digest is None:
        chunk.digest = xxh3_64_intdigest(chunk.view)
    return pack(
        Kind.DATA,
        length=len(chunk.view),
        handle=chunk.transfer.handle,
        offset=chunk.offset,
        digest=chunk.digest,
    )


def header_without_digest(chunk: Chunk) -> bytes:
    """The same where another process reads the payload, and sums it (`frames.with_digest`)."""
    return pack(
        Kind.DATA,
        length=len(chunk.view),
        handle=chunk.transfer.handle,
        offset=chunk.offset,
    )
