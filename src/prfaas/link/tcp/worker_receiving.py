"""In a link worker: one incoming connection. Reads payload straight into the arena, where the agent
says, verifies it, and passes on the rest."""

from __future__ import annotations

import select
import time

from prfaas.core.errors import LinkError
from prfaas.link.protocol.frames import FrameReader, Kind
from prfaas.link.tcp.channel import Channel
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.link.tcp.worker_messages import Answer, Heard, HeardFrame, Pipe

_MOST_OUTPUT_BYTES = 64 * 1024
"""While so much waits to be written nothing more is read."""
_MOST_ITEMS = 64
_MOST_NEWS_BYTES = 32 * 1024
"""Of bodies, from when on the agent is told."""


class Storing:
    """`run` until the connection ends. Raises PeerError, LinkError or OSError where it does not
    in peace."""

    def __init__(
        self,
        channel: Channel,
        pipe: Pipe[Answer],
        memory: SharedMemory,
        *,
        max_chunk_bytes: int,
        silence_s: float,
    ) -> None:
        self._channel, self._pipe, self._memory = channel, pipe, memory
        self._silence_s = silence_s
        self._reader = FrameReader(max_chunk_bytes=max_chunk_bytes)
        self._news: list[HeardFrame | bool] = []
        self._news_bytes = 0
        self._output = bytearray()
        self._asking = self._short = False
        self._poll = select.poll()
        self._poll.register(pipe.fileno(), select.POLLIN)

    def run(self) -> None:
        """See the class."""
        last_read_at = time.monotonic()
        while not self._pipe.ended:
            count = self._read()
            if count == 0:
                return
            self._write()
            if count is not None:
                last_read_at = time.monotonic()
                if not self._short:
                    continue
            self._tell()
            left_s = last_read_at + self._silence_s - time.monotonic()
            if left_s <= 0 and not self._asking:
                raise LinkError(f"silent for {self._silence_s:.0f} s")
            self._wait(left_s)
            self._listen()
        self._write()  # last words, as far as the socket takes them

    def _read(self) -> int | None:
        """What the socket has, until a header asks where its payload goes."""
        if self._asking or len(self._output) >= _MOST_OUTPUT_BYTES:
            return None
        reader = self._reader
        buffer = reader.get_buffer()
        count = self._channel.recv_into(buffer)
        self._short = count != len(buffer)
        if not count:
            return count
        frame = reader.received(count)
        if frame is None:
            return count
        if frame.data_follows:
            self._news.append((*frame.header, b""))
            self._asking = True
            self._tell()
            return None
        if frame.header.kind is Kind.DATA:
            self._news.append(bool(frame.intact))
        else:
            self._news.append((*frame.header, frame.body))
            self._news_bytes += len(frame.body)
        if len(self._news) >= _MOST_ITEMS or self._news_bytes >= _MOST_NEWS_BYTES:
            self._tell()
            self._listen()
        return count

    def _tell(self) -> None:
        if self._news:
            self._pipe.send(Heard(self._news))
            self._news, self._news_bytes = [], 0

    def _listen(self) -> None:
        """Take in what the agent has said."""
        while (answer := self._pipe.receive()) is not None:
            self._output += answer.output
            if answer.target is None:
                continue
            self._asking = False
            if answer.target:
                self._reader.into([self._memory.part(*extent) for extent in answer.target])
            else:
                self._reader.discard()

    def _write(self) -> None:
        if self._output:
            with memoryview(bytes(self._output)) as view:
                count = self._channel.send([view])
            del self._output[: count or 0]

    def _wait(self, left_s: float) -> None:
        mask = 0 if self._asking or len(self._output) >= _MOST_OUTPUT_BYTES else select.POLLIN
        mask |= select.POLLOUT if self._output else 0
        self._poll.register(self._channel.fileno(), mask)
        self._poll.poll(max(0.0, left_s) * 1000)
