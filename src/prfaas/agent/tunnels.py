"""Joins gateways' connections to the engines of this machine: ``CONNECT HOST:PORT``, then bytes.

Only to addresses of the machine's engines, and only for gateways. A tunnel that one side reads more
slowly than the other writes stops the other: it holds a few hundred kilobytes at most.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import cast

from prfaas.agent.peers import Peers
from prfaas.core.addresses import Address, parse_address
from prfaas.core.errors import ConfigError, nobody_listens
from prfaas.link.protocol.frames import Kind, reason
from prfaas.process.descriptors import share_of_files
from prfaas.process.http_handler import Others

_LONGEST_HEAD = 4096
_CONNECT_S = 4.0
_MOST, _FILES_EACH = 16_384, 4
"""Tunnels at a time; each has two descriptors, and as many are for everything else."""
_CONNECT, _KV_LINK = b"CONNECT ", bytes([Kind.HELLO])
_NO_LINK = reason(
    Kind.REJECT,
    "HTTP is served here, not the KV link: dial this agent's 'listen', or, where that is the same "
    "address as its 'admin', with a release of prfaas that asks for 'prfaas-kv' (ALPN)",
)
_ASKED = "the KV link, without ALPN 'prfaas-kv' (an older release) or where 'admin' alone is served"
Admitted = Callable[[], None]
Lost = Callable[[BaseException | None], None]
_CAUSES = {
    400: "head", 403: "forbidden", 404: "target", 502: "engine", 503: "full", 504: "late",
}  # fmt: skip


class Tunnels:
    """``engines``: where those of this machine listen, as the file says now."""

    def __init__(self, peers: Peers, engines: Collection[Address]) -> None:
        self._peers, self.engines = peers, frozenset(engines)
        self.most = share_of_files(_FILES_EACH, most=_MOST)
        self.opened_total = 0
        self.to_engines_bytes = self.from_engines_bytes = 0
        self.refused: Counter[str] = Counter()
        """By cause: ``head`` (not a request for one), ``forbidden``, ``target`` (no engine of this
        machine), ``engine`` (does not listen), ``late`` (it does not accept), ``full`` (no more
        tunnels or descriptors)."""
        self._open: set[_Near] = set()
        self.others: Others = {_CONNECT: self._begin, _KV_LINK: self._refuse_link}
        """What comes to the agent's HTTP port and is for none of its pages."""

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

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
        if target not in self.engines:
            return 404, None
        return (200, target) if len(self._open) < self.most else (503, None)

    def may_ask(self, transport: asyncio.Transport) -> bool:
        """Whether a tunnel's other end may ask for more: a gateway that has left the file reads
        answers to their end, and that is all."""
        return self._peers.is_gateway(transport)

    def refuse(self, status: int, transport: asyncio.Transport, head: bytes) -> None:
        """Say so, and end it."""
        cause = _CAUSES[status]
        self.refused[cause] += 1
        if status < 500 or cause == "full":
            asked = head.split(b"\r\n", 1)[0].decode(errors="replace")
            self._peers.refusals.note(f"tunnel_{cause}", transport, asked)
        answer = f"HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        transport.write(answer.encode())
        transport.close()

    def began(self, near: _Near) -> None:
        """One more is open."""
        self.opened_total += 1
        self._open.add(near)

    def ended(self, near: _Near) -> None:
        """It is open no more."""
        self._open.discard(near)

    def _begin(
        self, head: bytes, transport: asyncio.Transport, admitted: Admitted, lost: Lost
    ) -> None:
        near = _Near(self, transport, admitted, lost)
        transport.set_protocol(near)
        near.data_received(head)

    def _refuse_link(
        self, _head: bytes, transport: asyncio.Transport, _admitted: Admitted, lost: Lost
    ) -> None:
        """It is dialled in the wrong place: say so in its own words."""
        self._peers.refusals.note("kv_link", transport, _ASKED)
        transport.set_protocol(_Refused(lost))
        transport.write(_NO_LINK)
        transport.close()


class _Near(asyncio.Protocol):
    """The gateway's side."""

    def __init__(
        self, tunnels: Tunnels, transport: asyncio.Transport, admitted: Admitted, lost: Lost
    ) -> None:
        self._tunnels, self._transport = tunnels, transport
        self._admitted, self._lost = admitted, lost
        self._head = b""
        self._joining: asyncio.Task[None] | None = None
        self._far: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        if self._far is not None:
            if not self._tunnels.may_ask(self._transport):
                self.abort()
                return
            self._tunnels.to_engines_bytes += len(data)
            self._far.write(data)
            return
        self._head += data
        if len(self._head) > _LONGEST_HEAD:
            self._tunnels.refuse(400, self._transport, b"")
        elif b"\r\n\r\n" in self._head and self._joining is None:
            self._joining = asyncio.ensure_future(self._join())

    async def _join(self) -> None:
        status, target = self._tunnels.refusal(self._head, self._transport)
        if target is not None:
            self._admitted()
            try:
                async with asyncio.timeout(_CONNECT_S):
                    far, _ = await asyncio.get_running_loop().create_connection(
                        lambda: _Far(self._tunnels, self._transport), target.host, target.port
                    )
            except OSError as error:
                status = _status_of(error)
            else:
                self._far = far
                self._tunnels.began(self)
        if status != 200:
            self._tunnels.refuse(status, self._transport, self._head)
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
        far = self._far
        if far is not None and far.can_write_eof() and not far.is_closing():
            far.write_eof()
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


class _Refused(asyncio.Protocol):
    """Until it has heard so; what it still says is nobody's."""

    def __init__(self, lost: Lost) -> None:
        self._lost = lost

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost(exc)


def _status_of(error: OSError) -> int:
    """Whose fault it is that the engine was not reached. Only 502 says that nobody listens there:
    a busy engine (504) and an agent without descriptors (503) say nothing about its process."""
    if isinstance(error, TimeoutError):
        return 504
    return 502 if nobody_listens(error) else 503


class _Far(asyncio.Protocol):
    """The engine's side."""

    def __init__(self, tunnels: Tunnels, near: asyncio.Transport) -> None:
        self._tunnels, self._near = tunnels, near
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._tunnels.from_engines_bytes += len(data)
        self._near.write(data)

    def pause_writing(self) -> None:
        self._near.pause_reading()

    def resume_writing(self) -> None:
        self._near.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        # An answer that broke off must not look like one that ended.
        self._near.abort() if exc is not None else self._near.close()
