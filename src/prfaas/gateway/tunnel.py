"""The way to an engine through its agent: a connection over mutual TLS that the agent joins to the
engine's own.

One ``CONNECT`` (RFC 9110 section 9.3.6) opens it; from then on the agent copies bytes, and HTTP to
the engine is as if there were none. So a request costs the agent a read and a write, not a parser.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable
from typing import TypeVar, cast

from prfaas.core.addresses import Address
from prfaas.core.errors import PeerError
from prfaas.gateway.upstream_errors import describe
from prfaas.tls.context import PeerContext, check_server
from prfaas.tls.records import Watched, watch

_TIMEOUT_S = 5.0
_LONGEST_HEAD = 4096
"""What an agent may take to join a connection to an engine, and bytes that it may say of it."""
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")

Kind = TypeVar("Kind", bound=asyncio.Protocol)


async def open_tunnel(
    make: Callable[[], Kind], through: PeerContext, engine: Address
) -> tuple[asyncio.Transport, Kind]:
    """A connection to an engine at this address of its machine, with what ``make`` makes.

    Raises ConnectionRefusedError where the engine does not listen, OSError (ECONNABORTED) where its
    agent is not to be had, of which PermissionError where it does not let us, TimeoutError where
    one of the two is late. Their words have no addresses: clients read them.
    """
    loop = asyncio.get_running_loop()
    host, port = through.address
    answered: asyncio.Future[int] = loop.create_future()
    transport: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            transport, asking = await loop.create_connection(
                lambda: _Asking(through, engine, answered), host, port, ssl=through
            )
            status = await answered
    except (TimeoutError, asyncio.CancelledError):
        _drop(transport)
        raise
    except OSError as error:
        _drop(transport)
        why = f"agent {through.peer}: {describe(error)}"
        raise OSError(errno.ECONNABORTED, why) from error
    except PeerError as error:
        _drop(transport)
        raise OSError(errno.ECONNABORTED, f"agent {through.peer}: {error}") from error
    if status != 200:
        _drop(transport)
        if status == 502:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{engine} does not listen")
        if status == 504:
            raise TimeoutError(f"{engine} is late to accept a connection of its agent's")
        why = f"agent {through.peer} answers {status} when asked for its engine"
        raise (PermissionError if status == 403 else OSError)(errno.ECONNABORTED, why)
    asking.told()
    protocol = make()
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    return transport, protocol


def _drop(transport: asyncio.Transport | None) -> None:
    if transport is not None:
        transport.abort()


class _Asking(asyncio.Protocol):
    """Until the agent has answered."""

    def __init__(
        self, through: PeerContext, engine: Address, answered: asyncio.Future[int]
    ) -> None:
        self._through, self._engine, self._answered = through, engine, answered
        self._head = b""
        self._records: Watched | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            check_server(self._through, transport)
        except PeerError as error:
            self._end(error)
            return
        writing = cast(asyncio.Transport, transport)
        self._records = watch(writing.get_extra_info("ssl_object"), writing.abort)
        asked = f"CONNECT {self._engine} HTTP/1.1\r\nHost: {self._engine}\r\n\r\n"
        writing.write(asked.encode())

    def data_received(self, data: bytes) -> None:
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if not end and len(self._head) <= _LONGEST_HEAD:
            return
        status = _STATUS.match(head)
        if not self._answered.done():
            self._answered.set_result(int(status[1]) if status else 0)

    def told(self) -> None:
        """Another hears what comes from now on."""
        if self._records is not None:
            self._records.told_elsewhere()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionResetError(errno.ECONNRESET, "it ended the connection"))

    def _end(self, error: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(error)
            self._answered.exception()  # Who was cancelled hears it no more, which is no fault.
