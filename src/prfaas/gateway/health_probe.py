"""Health checks of one engine, over a connection of their own.

A thousand engines are asked hundreds of times a second in all, so a check costs as little as it
can: one write and one read on a kept connection. And a connection that breaks says at once what the
next check would have said later: the process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable
from typing import cast

import msgspec

from prfaas.core.addresses import parse_url
from prfaas.core.errors import EngineError
from prfaas.gateway.tunnel import open_tunnel
from prfaas.tls.context import PeerContext
from prfaas.tls.pace import FEW_RECORDS
from prfaas.tls.records import Watched, watch

_LARGEST_ANSWER = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)


class Sickness(msgspec.Struct, frozen=True):
    """Why a health check failed. ``late``: it has not answered yet, or the connection broke off, as
    happens on a busy machine; ``refused``: nobody listens."""

    why: str
    late: bool = False
    refused: bool = False


class HealthProbe:
    """Asks ``url``/health, one check at a time.

    Args:
        tls: what is trusted; None: what this machine trusts; see `Credentials`.
        on_lost: called when the kept connection has broken between two checks.
        on_alive: called where it answers over the kept connection, and a check fails all the same.
    """

    def __init__(
        self,
        url: str,
        on_lost: Callable[[], None],
        *,
        on_alive: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self._url = parse_url(url)
        self._tls = tls
        self._secure = url.startswith("https:")
        self._on_lost, self._on_alive = on_lost, on_alive
        self._connection: _Connection | None = None
        self._doubted = False
        host = str(self._url)
        self._request = f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()

    async def status(self, timeout_s: float) -> int:
        """The status of one answer. Raises TimeoutError, OSError where there is no connection or it
        breaks, EngineError for what is no HTTP."""
        status = await self._asked(timeout_s)
        if self._doubted:
            await self._renew(timeout_s)
        return status

    async def _asked(self, timeout_s: float) -> int:
        try:
            kept = self._connection
            if kept is not None and kept.is_open:
                # The server closes what was idle: that is no answer to this check.
                with contextlib.suppress(ConnectionError):
                    return await kept.ask(self._request, timeout_s)
            async with asyncio.timeout(timeout_s):
                return await (await self._dial()).ask(self._request, timeout_s)
        except BaseException:
            self.close()
            raise

    def doubt(self) -> None:
        """A request could not connect: until a check can, they fail. The kept connection may
        live for hours where no other is let in, as by a list that has expired."""
        self._doubted = True

    async def _renew(self, timeout_s: float) -> None:
        """Raises as `status` where there is no other connection; then the kept one stays."""
        kept, self._connection = self._connection, None
        try:
            async with asyncio.timeout(timeout_s):
                await self._dial()
        except BaseException:
            self._connection = kept
            self._on_alive()
            raise
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _dial(self) -> _Connection:
        if isinstance(self._tls, PeerContext) and not self._secure:
            made = await open_tunnel(lambda: _Connection(self._on_lost), self._tls, self._url)
        else:
            made = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._on_lost),
                self._url.host,
                self._url.port,
                ssl=(self._tls or ssl.create_default_context()) if self._secure else None,
            )
        self._connection, self._doubted = made[1], False
        return self._connection


class _Connection(asyncio.Protocol):
    """One kept connection; it is closed after an answer whose end is not known."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._received = b""
        self._records: Watched | None = None
        """Of TLS."""
        self.is_open = False

    async def ask(self, request: bytes, within_s: float) -> int:
        """Send and wait for the answer's status. Raises ConnectionError, TimeoutError, EngineError.
        A timer of its own costs a third of `asyncio.timeout`, hundreds of times a second."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        self._answer = answer
        alarm = loop.call_later(within_s, _late, answer)
        self._transport.write(request)
        try:
            return await answer
        finally:
            alarm.cancel()
            self._answer = None

    def close(self) -> None:
        """Without a word to anybody."""
        self._on_lost = _nobody
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every event loop's transports are made from asyncio's class.
        self._transport, self.is_open = cast(asyncio.Transport, transport), True
        if (secured := transport.get_extra_info("ssl_object")) is not None:
            self._records = watch(secured, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._answer is None:
            self._on_lost()
        elif not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection broke"))

    def data_received(self, data: bytes) -> None:
        answer, records = self._answer, self._records
        if records is not None and records.small(len(data)) > FEW_RECORDS and answer is not None:
            self.close()  # Its answer is lost with it.
            return
        if answer is None or answer.done():
            self.close()  # It speaks without being asked.
            return
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(self._received) > _LARGEST_ANSWER:
                answer.set_exception(EngineError("its answer to a health check has no end"))
            return
        status = _STATUS.match(head)
        if status is None:
            answer.set_exception(EngineError("its answer to a health check is no HTTP"))
            return
        length = _LENGTH.search(head + b"\r\n")
        if length is None or b"\nconnection: close" in head.lower():
            self.close()
        elif len(body) < int(length[1]) <= _LARGEST_ANSWER:
            return
        self._received = b""
        answer.set_result(int(status[1]))


def _late(answer: asyncio.Future[int]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError("timed out"))


def _nobody() -> None:
    pass
