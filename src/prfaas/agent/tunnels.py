"""Joins gateways' connections to the engines of this machine: ``CONNECT HOST:PORT``, then bytes.

Only to addresses of the machine's engines, and only for gateways. A tunnel that one side reads more
slowly than the other writes stops the other: it holds a few hundred kilobytes at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import cast

from prfaas.agent.peers import Peers
from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError, nobody_listens

logger = logging.getLogger(__name__)

_LONGEST_HEAD = 4096
_CONNECT_S = 4.0
Lost = Callable[[BaseException | None], None]


class Tunnels:
    """A `front_door.Tunnel`. ``engines``: where those of this machine listen; may be exchanged."""

    def __init__(self, peers: Peers, engines: Collection[Address]) -> None:
        self._peers, self.engines = peers, frozenset(engines)
        self.opened_total = 0
        self._open: set[_Near] = set()

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

    def __call__(self, head: bytes, transport: asyncio.Transport, lost: Lost) -> None:
        """Take over a connection."""
        near = _Near(self, transport, lost)
        transport.set_protocol(near)
        near.data_received(head)

    def close(self) -> None:
        """End all."""
        for near in list(self._open):
            near.abort()

    def refusal(self, head: bytes, transport: asyncio.Transport) -> tuple[int, Address | None]:
        """(status, None), or (200, where to): may this be asked, by who asks?"""
        if not self._peers.is_gateway(transport):
            return 403, None
        words = head.split(b"\r\n", 1)[0].split()
        try:
            target = parse_address(words[1].decode("ascii"))
        except (IndexError, UnicodeDecodeError, ConfigError):
            return 400, None
        return (200, target) if target in self.engines else (404, None)

    def began(self, near: _Near) -> None:
        """One more is open."""
        self.opened_total += 1
        self._open.add(near)

    def ended(self, near: _Near) -> None:
        """It is open no more."""
        self._open.discard(near)


class _Near(asyncio.Protocol):
    """The gateway's side."""

    def __init__(self, tunnels: Tunnels, transport: asyncio.Transport, lost: Lost) -> None:
        self._tunnels, self._transport, self._lost = tunnels, transport, lost
        self._head = b""
        self._joining: asyncio.Task[None] | None = None
        self._far: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        if self._far is not None:
            self._far.write(data)
            return
        self._head += data
        if b"\r\n\r\n" in self._head and self._joining is None:
            self._joining = asyncio.ensure_future(self._join())
        elif len(self._head) > _LONGEST_HEAD:
            self.abort()

    async def _join(self) -> None:
        status, target = self._tunnels.refusal(self._head, self._transport)
        if target is not None:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    far, _ = await asyncio.get_running_loop().create_connection(
                        lambda: _Far(self._transport), target.host, target.port
                    )
            except OSError as error:
                status = _status_of(error)
            else:
                self._far = far
                self._tunnels.began(self)
        if status != 200:
            answer = f"HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            self._transport.write(answer.encode())
            self._transport.close()
            return
        self._transport.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        rest = self._head.partition(b"\r\n\r\n")[2]
        if rest and self._far is not None:
            self._far.write(rest)

    def pause_writing(self) -> None:
        if self._far is not None:
            self._far.pause_reading()

    def resume_writing(self) -> None:
        if self._far is not None:
            self._far.resume_reading()

    def eof_received(self) -> bool:
        if self._far is not None and self._far.can_write_eof():
            self._far.write_eof()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._joining is not None:
            self._joining.cancel()
        if self._far is not None:
            # What a client no longer waits for is no longer computed: the engine sees it at once.
            self._far.abort() if exc is not None else self._far.close()
        self._tunnels.ended(self)
        self._lost(exc)

    def abort(self) -> None:
        """Now."""
        self._transport.abort()


def _status_of(error: OSError) -> int:
    """Whose fault it is that the engine was not reached. Only 502 says that nobody listens there:
    a busy engine (504) and an agent without descriptors (503) say nothing about its process."""
    if isinstance(error, TimeoutError):
        return 504
    return 502 if nobody_listens(error) else 503


class _Far(asyncio.Protocol):
    """The engine's side."""

    def __init__(self, near: asyncio.Transport) -> None:
        self._near = near
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._near.write(data)

    def pause_writing(self) -> None:
        self._near.pause_reading()

    def resume_writing(self) -> None:
        self._near.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        # An answer that broke off must not look like one that ended.
        self._near.abort() if exc is not None else self._near.close()
