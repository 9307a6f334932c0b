"""What has come over a connection is taken apart a piece at a time: a head when there is room for
its request, a body in chunks, or packed, when somebody wants it, in turns with others of who pays
for it.

What came in one go may be thousands of requests, or tens of thousands of chunks, or of packed
parts, of which nothing comes.
"""

from __future__ import annotations

from typing import Any

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web_protocol import _ErrInfo

from prfaas.process.turns import Turns

_END = b"\r\n\r\n"
_EMPTY = b"\r\n"
_PIECE_BYTES = 8 * 1024
"""In chunks of a byte, packed, they take some 8 ms; in packed parts of nothing 1 ms."""
_MOST_DIGITS = 64
"""Of a length: nought before it is allowed, without end, and Python reads no more than 4,300."""
_MOST_WAITING, _READ_ON_AT = 2, 1
"""Requests of a connection behind the one that is answered. Who has said so many without reading
what it is told is not read from, so nor seen to leave, until one of them has its turn."""


class TakingTurns(web.RequestHandler):
    """aiohttp's; ``turns``: of bodies that are wanted in nobody's own turns."""

    __slots__ = ("_head_ends", "_held", "_last", "_nobodys", "_turns", "_waits", "_wanted")

    def __init__(self, server: web.Server, turns: Turns, **settings: Any) -> None:
        super().__init__(server, **settings)
        self._turns = self._nobodys = turns
        self._held = bytearray()
        """Has come, and is to be taken apart."""
        self._waits = False
        """Whether it has asked for a turn to go on with that."""
        self._wanted: StreamReader | None = None
        """The body that is read, in `_turns`."""
        self._last: tuple[Any, StreamReader] | None = None
        """Of the requests whose heads have come: the message, and its body."""
        self._head_ends = b""
        """What has been taken of the head that comes ends so: its end may lie over two pieces."""
        # aiohttp lets 32 of any size wait, for each of thousands of strangers.
        self._max_msg_queue_size, self._msg_queue_resume_size = _MOST_WAITING, _READ_ON_AT

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if data:
            self._held += data
            self._go_on()
        else:  # aiohttp goes on with what it has.
            super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See aiohttp's `BaseProtocol`."""
        super().resume_reading(resume_parser)
        if self._held:  # Not now: aiohttp may be in the middle of it.
            self._loop.call_soon(self._go_on)

    def _resume_reading_for_buffer(self) -> None:
        """A request that waited has its turn. What has come goes before what is to be read."""
        if self._held:
            self._loop.call_soon(self._go_on)
        else:
            super()._resume_reading_for_buffer()

    def take_apart(self, data: bytes) -> None:
        """One piece."""
        super().data_received(data)

    def want(self, request: web.BaseRequest, turns: Turns | None) -> None:
        """See `want`."""
        self._wanted, self._turns = request.content, self._nobodys if turns is None else turns
        self._go_on()

    def let_go(self) -> None:
        """Nothing more of what has come is wanted."""
        self._held.clear()

    def _go_on(self) -> None:
        """Until nothing is left, or is to wait."""
        while self._held and not self._reading_paused and not self._waits:
            if self.transport is None:
                self._held.clear()
            elif self._last is None or self.comes_head:
                if len(self._messages) >= _MOST_WAITING:
                    break
                self._take_piece()
            elif not self._last[0].chunked and self._last[0].compression is None:
                self._take_piece()
            elif self._wanted is self._last[1]:
                self._waits = True
                self._turns.ask(self._take_turn)
            else:
                break
        if self._held:
            self._pause_reading_for_buffer()
        elif self._buffer_paused and len(self._messages) < _MOST_WAITING:
            self._resume_reading_for_buffer()

    def _take_turn(self) -> None:
        self._waits = False
        if self._held and self.transport is not None and not self._reading_paused:
            self._take_piece()
        self._go_on()

    def _take_piece(self) -> None:
        # No more than a head, or a body: whether the next body is wanted is to be seen.
        size = self._size_of_head() if self.comes_head else self._size_of_body()
        piece = bytes(self._held[:size])
        del self._held[:size]
        body = None if self._last is None or self.comes_head else self._last[1]
        self.take_apart(piece)
        if self._messages:
            if _has_endless_length(self._messages[-1][0]):
                error = BadHttpMessage("Content-Length has too many digits")
                self._messages[-1] = _ErrInfo(400, error, error.message), EMPTY_PAYLOAD
            self._last = self._messages[-1]
            if not hasattr(self._last[0], "chunked"):  # It says what is wrong.
                self._held.clear()
                if body is not None:  # Of which aiohttp tells the reader nothing.
                    body.set_exception(web.RequestPayloadError("these are no chunks"))

    def _size_of_head(self) -> int:
        """How many of the next bytes are of it, at most. Empty lines may be before it."""
        before = self._head_ends
        if not before and (empty := len(self._held) - len(self._held.lstrip(_EMPTY))):
            return empty
        begins = before + self._held[:_PIECE_BYTES]
        end = begins.find(_END)
        size = len(begins) if end < 0 else end + len(_END)
        self._head_ends = b"" if end >= 0 else bytes(begins[1 - len(_END) :])
        return size - len(before)

    def _size_of_body(self) -> int:
        """Likewise. Where one in chunks ends is not known here."""
        assert self._last is not None
        message, body = self._last
        length = message.headers.get("Content-Length")
        if length is None:
            return _PIECE_BYTES
        return min(_PIECE_BYTES, max(1, int(length) - body.total_raw_bytes))

    @property
    def comes_head(self) -> bool:
        """Whether the next bytes are of a request's head."""
        return self._last is None or self._last[1].is_eof()


def _has_endless_length(message: Any) -> bool:
    length = None if isinstance(message, _ErrInfo) else message.headers.get("Content-Length")
    return length is not None and len(length) > _MOST_DIGITS


def want(request: web.BaseRequest, turns: Turns | None = None) -> None:
    """Its body is read from now on. ``turns``: of who pays for taking it apart; those of its door
    where that is not known."""
    if isinstance(request.protocol, TakingTurns):
        request.protocol.want(request, turns)
