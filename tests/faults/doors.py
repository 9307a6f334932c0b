"""Every HTTP listener of a gateway and an agent, as tests that mean harm find it.

A stranger is whoever has shown no right: without a certificate, or a key. An insider has a
certificate of the deployment's authority, and asks for what it may not.
"""

from __future__ import annotations

import _ssl
import asyncio
import ctypes
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.addresses import Address, parse_url
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.gateway.http import make_admin_app
from prfaas.process.connections import Connections
from prfaas.process.front_door import connections, serving_strangers
from prfaas.testing.mock_deployment import MockDeployment
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.context import client_context
from prfaas.tls.files import TlsFiles

LINE = b"GET /health HTTP/1.1\r\nHost: h\r\n"
SAYS = {
    "nothing": b"",
    "a letter": b"G",
    "half a request line": b"GET /hea",
    "half a head": LINE + b"X-A: ",
    "a body that does not come": b"PUT /gateways/abcdefgh HTTP/1.1\r\nHost: h\r\n"
    b"Content-Length: 1000\r\n\r\n",
    "half a handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "half a CONNECT": b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: ",
    "CONNECT": b"CONNECT ",
}
"""And then no more."""


class Door(NamedTuple):
    """``tls``: what the hostile side connects with."""

    address: Address
    book: Connections
    tls: ssl.SSLContext | None
    well: Callable[[], Awaitable[None]]
    """Awaited, it raises unless who may be there is served."""

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address, ssl=self.tls)


def deployment(certs: Path | None, run: Path, engine: str = "http://127.0.0.1:1") -> Deployment:
    def own(name: str) -> str:
        return f"{{ca: {certs}/ca.pem, cert: {certs}/{name}.pem, key: {certs}/{name}-key.pem}}"

    security = "plaintext: true" if certs is None else f"tls: {own('a')}"
    gateway = "{}" if certs is None else f"{{agent_tls: {own('gateway')}}}"
    return parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: d, role: decode, url: "{engine}"}}]
  agent: {{name: a, socket: {run}/s, arena: 4 MiB, slot: 64 KiB, {security}}}
gateway: {gateway}
""",
        source="test",
    )


@asynccontextmanager
async def running_agent(certs: Path | None, run: Path, engine: str = "") -> AsyncIterator[Agent]:
    made = deployment(certs, run, engine) if engine else deployment(certs, run)
    agent = Agent(settings_for(made, "a"))
    await agent.start()
    try:
        yield agent
    finally:
        await agent.close()


def certificates(at: Path) -> Path:
    create_authority(at)
    for name in ("a", "b", "gateway"):
        issue(at, name)
    return at


def shows(certs: Path, name: str) -> ssl.SSLContext:
    return client_context(
        TlsFiles(certs / "ca.pem", certs / f"{name}.pem", certs / f"{name}-key.pem")
    )


async def healthy(url: str, context: ssl.SSLContext | None = None) -> None:
    async with (
        aiohttp.ClientSession() as http,
        http.get(url + "/health", ssl=context or True) as answer,
    ):
        assert answer.status == 200


@asynccontextmanager
async def at_gateway(run: Path, *, admin: bool) -> AsyncIterator[Door]:
    mock = MockDeployment(keys='["secret"]')
    async with mock.running() as client:
        url = str((await client.get("/health")).url.origin())
        if not admin:
            book = mock.gateway.access.connections
            yield Door(parse_url(url), book, None, lambda: healthy(url))
            return
        app, book = make_admin_app(mock.gateway), connections()
        async with serving_strangers(
            app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1, book=book
        ) as own:
            yield Door(parse_url(own), book, None, lambda: healthy(own))


@asynccontextmanager
async def at_agent(run: Path, *, tls: bool, insider: bool = False) -> AsyncIterator[Door]:
    certs = certificates(run / "certs") if tls else None
    async with running_agent(certs, run) as agent:
        gateway = shows(certs, "gateway") if certs else None
        yield Door(
            parse_url(agent.admin_url),
            agent.connections,
            shows(certs, "b") if certs and insider else None,
            lambda: healthy(agent.admin_url, gateway),
        )


DOORS: dict[str, Callable[[Path], AbstractAsyncContextManager[Door]]] = {
    "gateway": lambda run: at_gateway(run, admin=False),
    "gateway's operators": lambda run: at_gateway(run, admin=True),
    "agent": lambda run: at_agent(run, tls=False),
    "agent with TLS": lambda run: at_agent(run, tls=True),
    "agent with TLS, from another agent": lambda run: at_agent(run, tls=True, insider=True),
}


def change_keys(end: ssl.SSLObject, times: int, *, both: bool = True) -> None:
    """Which Python has no words for. ``both``: the other end is asked to change its own as well."""
    for _ in range(times):
        assert _openssl.SSL_key_update(_secured(end), int(both)) == 1
        assert _openssl.SSL_do_handshake(_secured(end)) == 1


def give_tickets(end: ssl.SSLObject, times: int) -> None:
    """A server's, with which its client may come again."""
    for _ in range(times):
        assert _openssl.SSL_new_session_ticket(_secured(end)) == 1
        assert _openssl.SSL_do_handshake(_secured(end)) == 1


_openssl = ctypes.CDLL(_ssl.__file__)


def _secured(end: ssl.SSLObject) -> ctypes.c_void_p:
    # CPython's object: its head, the socket, and OpenSSL's own.
    return ctypes.c_void_p((ctypes.c_void_p * 4).from_address(id(cast("Any", end)._sslobj))[3])


class Rekeying:
    """A TLS client whose keys can be changed, and whose records are as short as wanted."""

    def __init__(
        self,
        context: ssl.SSLContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._end = context.wrap_bio(self._in, self._out)

    async def _until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                found = step()
                self._writer.write(self._out.read())
                return found
            except ssl.SSLWantReadError:
                self._writer.write(self._out.read())
                self._in.write(await self._reader.read(65536) or b"")
                if self._reader.at_eof():
                    raise ConnectionResetError from None

    async def begin(self) -> None:
        await self._until(self._end.do_handshake)

    def change_keys(self, times: int) -> None:
        change_keys(self._end, times)
        self._writer.write(self._out.read())

    async def say(self, data: bytes, *, record_bytes: int) -> None:
        for start in range(0, len(data), record_bytes):
            self._end.write(data[start : start + record_bytes])
        self._writer.write(self._out.read())
        await self._writer.drain()

    async def hear(self) -> bytes:
        return bytes(await self._until(lambda: self._end.read(65536)))

    async def end(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def ask(self) -> bytes:
        self._end.write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        return await self.hear()
