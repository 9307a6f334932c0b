"""One connection to an engine or agent: HTTP/1.1, one exchange at a time.

Theory of operation. A request goes out in one write. What comes back goes through llhttp (by
`httptools`), whose callbacks gather an `Answer`; one task reads it. When all of it is here the
connection is free for the next exchange, whether or not the answer has been read. A stream that is
not read fast enough has its socket left unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from prfaas.gateway.http_answer import Answer, ConnectionBroke, NotHttp, Timeouts
from prfaas.gateway.room import Room
from prfaas.tls.pace import Pace
from prfaas.tls.records import watch

_LONGEST_HEAD = 64 * 1024
"""Bytes of an answer's head, and of what comes in place of its body: of what stands between two
chunks, or behind the last."""
_COPIED = 64 * 1024
"""A body below so many bytes goes out in one write with its head."""
_VERSIONS = ("1.1", "1.0")


class Connection(asyncio.Protocol):
    """``on_free`` is called when it can take another request; ``room`` is its machine's, and
    ``comes_in_s`` says after how long so many small TLS records have come from there."""

    def __init__(
        self,
        on_free: Callable[[Connection], None],
        room: Room | None = None,
        comes_in_s: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        self.is_open = False
        self._room = room
        self.free_since = 0.0
        self._on_free = on_free
        self._answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._before_answer = self._seen = False
        self._idle_bytes = 0
        """So many have come that are no body, since there was some."""
        self._paused = False
        self._comes_in_s = comes_in_s
        self._pace: Pace | None = None
        """Over TLS."""

    async def ask(self, head: bytes, body: bytes, timeouts: Timeouts, whose: str = "") -> Answer:
        """Send a request of this tenant's; returns when the head of its answer is here. Raises as
        `Answer` does."""
        answer = self._answer = Answer(self, timeouts, self._room, whose)
        self._seen, self._idle_bytes = False, 0
        if self.is_open and len(body) < _COPIED:
            self._transport.write(head + body)
        elif self.is_open:
            self._transport.write(head)
            self._transport.write(body)
        else:
            answer.fail(ConnectionBroke("the server closed the connection", unseen=True))
        try:
            return await answer.head()
        except BaseException:
            answer.close()
            raise

    def abort(self) -> None:
        """End it at once."""
        self._answer = None
        if self.is_open:
            self.is_open = False
            self._transport.abort()

    def go_on(self) -> None:
        """Take more from the socket."""
        if self._paused:
            self._paused = False
            self._read_on()

    # -- asyncio ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every event loop's transports are made from asyncio's class.
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True
        secured = self._transport.get_extra_info("ssl_object")
        if secured is not None:
            self._pace = Pace(
                watch(secured, self._transport.abort),
                self._comes_in_s,
                pause=self._transport.pause_reading,
                resume=self._read_on,
            )

    def data_received(self, data: bytes) -> None:
        if self._pace is not None:
            self._pace.came(len(data))
        answer = self._answer
        if answer is None:
            self.abort()  # It speaks without being asked.
            return
        self._seen = True
        self._idle_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            answer.fail(NotHttp("the answer is another protocol"))
        except httptools.HttpParserError as error:
            answer.fail(NotHttp(f"the answer is no HTTP: {error}"))
            self.abort()
        if self._idle_bytes > _LONGEST_HEAD:
            answer.fail(NotHttp("the answer's head, or what follows its body, has no end"))

    def _read_on(self) -> None:
        holds = self._pace is not None and self._pace.holds
        if self.is_open and not (self._paused or holds):
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        # They point back here: until the collector comes, which is seldom, they would keep all
        # that TLS has of the connection.
        del self._parser, self._transport
        self._pace = None
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if exc is None and answer.status and not _says_its_length(answer):
            answer.end()
            return
        why = "the server closed the connection" if exc is None else str(exc)
        answer.fail(ConnectionBroke(why, unseen=not self._seen))

    # -- llhttp ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.abort()  # An answer to no request follows.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is not None:
            self._answer.add_field(name, value)

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if answer is None:
            return
        self._before_answer = status < 200
        if self._before_answer:
            answer.forget_fields()
            return
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            answer.fail(NotHttp(f"the answer is HTTP/{version}"))
            return
        answer.begin(status)

    def on_body(self, data: bytes) -> None:
        self._idle_bytes = 0
        if self._answer is not None and self._answer.add(data) and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is None or self._before_answer:
            return
        self._answer = None
        answer.end()
        self.go_on()
        # A server may answer before it has read all: what is left would be the next request's.
        if self._parser.should_keep_alive() and not self._transport.get_write_buffer_size():
            self._on_free(self)
        else:
            self.abort()


def _says_its_length(answer: Answer) -> bool:
    names = ("Content-Length", "Transfer-Encoding")
    return any(answer.header(name) is not None for name in names)
