"""Connections that mean harm, at every HTTP listener: each is ended or bounded, none costs others.

A stranger is whoever has shown no right: without a certificate, or a key. An insider has a
certificate of the deployment's authority, and asks for what it may not.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.addresses import Address, parse_url
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.gateway.http import make_admin_app
from prfaas.process import front_door, http_handler
from prfaas.process.connections import Connections
from prfaas.process.front_door import connections, serving_strangers
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.testing.mock_http import MockServer
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
FLOODS = {
    "endless headers": (LINE, b"X-%d: " + b"a" * 4000 + b"\r\n"),
    "an endless line": (b"GET /", b"%d" + b"a" * 4000),
    "an endless CONNECT": (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n", b"X-%d: " + b"a" * 1000 + b"\r\n"),
    "chunks without end": (
        b"PUT /gateways/abcdefgh HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"fa0\r\n%4d" + b"a" * 3996 + b"\r\n",
    ),
}
"""How it begins, and what follows again and again."""
_MOST_SENT = 8 * 1024 * 1024


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


@pytest.fixture(params=DOORS)
async def door(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Door]:
    async with DOORS[request.param](tmp_path) as found:
        yield found


async def test_who_says_half_of_something_is_ended(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every kind a few: none stays, none is taken for somebody who may be here."""
    monkeypatch.setattr(http_handler.read_body, "__kwdefaults__", {"within_s": 0.1})
    opened = [(said, *await door.connect()) for said in SAYS.values() for _ in range(3)]
    for said, _, writer in opened:
        writer.write(said)
    await door.well()
    door.book._stranger_s = 0.0
    for _, reader, writer in opened:
        try:
            while await reader.read(65536):
                pass
        except OSError:
            pass
        writer.transport.abort()
    await until(lambda: (door.book.strangers, door.book.busy) == (0, 0))


@pytest.mark.parametrize("flood", FLOODS)
async def test_what_does_not_end_is_refused(
    flood: str, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "_LINGER_S", 0.0)
    reader, writer = await door.connect()
    begins, again = FLOODS[flood]
    sent = 0
    writer.write(begins)
    try:
        while not reader.at_eof() and sent < _MOST_SENT:
            writer.write(again % (sent % 10_000))
            sent += len(again)
            await writer.drain()
            await asyncio.sleep(0)
    except OSError:
        pass
    writer.transport.abort()
    assert sent < _MOST_SENT
    await door.well()
    await until(lambda: door.book.busy == 0)


async def test_one_line_without_headers_is_no_request(door: Door) -> None:
    """HTTP/0.9."""
    reader, writer = await door.connect()
    writer.write(b"GET /health\r\n")
    writer.write_eof() if writer.can_write_eof() else None
    door.book._stranger_s = 0.5
    try:
        answer = await reader.read()
    except OSError:
        answer = b""
    assert not answer or b" 400 " in answer.split(b"\r\n", 1)[0]
    writer.transport.abort()


async def test_thousands_at_an_agents_door_cost_a_bounded_number_of_descriptors(
    tmp_path: Path,
) -> None:
    async with at_agent(tmp_path, tls=True) as door:
        door.book.most = 50
        kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        most = 0
        for number in range(1000):
            reader, writer = await door.connect()
            writer.write(SAYS[("nothing", "half a handshake")[number % 2]])
            kept.append((reader, writer))
            most = max(most, door.book.strangers)
            if number % 100 == 99:
                for old, other in kept:
                    if old.at_eof() or other.transport.is_closing():
                        other.transport.abort()
        assert most <= 50
        assert door.book.dropped["room"] > 0
        await door.well()
        for _, writer in kept:
            writer.transport.abort()


class Engine(MockServer):
    """Answers with one event, and another when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/stream", self._stream)]

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await self.release.wait()
        await response.write(b"data: two\n\n")
        return response


@asynccontextmanager
async def tunnels(run: Path) -> AsyncIterator[tuple[Agent, Engine, Door]]:
    engine = Engine()
    await engine.start()
    certs = certificates(run / "certs")
    try:
        async with running_agent(certs, run, engine.url) as agent:
            gateway = shows(certs, "gateway")
            address = parse_url(agent.admin_url)
            yield agent, engine, Door(address, agent.connections, gateway, lambda: healthy(""))
    finally:
        await engine.stop()


async def tunnel(
    door: Door, engine: Engine
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    reader, writer = await door.connect()
    where = parse_url(engine.url)
    writer.write(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    return reader, writer, head.split(b"\r\n", 1)[0]


async def test_an_answer_may_take_longer_than_a_connection_may_ask_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_door, "_IDLE_S", 0.2)
    async with tunnels(tmp_path) as (agent, engine, door):
        reader, writer, status = await tunnel(door, engine)
        assert status == b"HTTP/1.1 200 Connected"
        writer.write(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"one\n\n")
        # This one asks for nothing after it, and is ended when it has for so long.
        idle, other = await door.connect()
        other.write(LINE + b"\r\n")
        await idle.read()
        other.close()
        assert agent.tunnels.open == 1
        engine.release.set()
        await reader.readuntil(b"two\n\n")
        writer.close()
        await until(lambda: agent.tunnels.open == 0)


async def test_tunnels_that_are_opened_and_left_are_bounded_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tunnels(tmp_path) as (agent, engine, door):
        agent.tunnels.most = 5
        left = [await tunnel(door, engine) for _ in range(7)]
        assert [status.split()[1] for _, _, status in left] == [b"200"] * 5 + [b"503"] * 2
        assert agent.tunnels.refused == {"full": 2}
        assert "refused cause=tunnel_full peer=gateway" in caplog.text
        _, writer, _ = left[0]
        writer.transport.abort()
        await until(lambda: agent.tunnels.open == 4)
        left.append(await tunnel(door, engine))
        reader, writer, status = left[-1]
        assert status.split()[1] == b"200"
        engine.release.set()
        writer.write(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"two\n\n")
        assert agent.tunnels.to_engines_bytes > 20
        assert agent.tunnels.from_engines_bytes > 20
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{agent.admin_url}/metrics", ssl=door.tls or True) as page,
        ):
            text = await page.text()
        for line in (
            "prfaas_agent_tunnels 5.0",
            "prfaas_agent_tunnels_opened_total 6.0",
            'prfaas_agent_tunnels_refused_total{cause="full"} 2.0',
            'prfaas_agent_refused_requests_total{cause="tunnel_full"} 2.0',
        ):
            assert line in text
        for _, writer, _ in left:
            writer.transport.abort()
        await until(lambda: agent.tunnels.open == 0)


async def test_a_reader_that_takes_nothing_is_ended(tmp_path: Path) -> None:
    """It asks again and again for what is long, and never reads."""
    async with running_agent(None, tmp_path) as agent:
        where = parse_url(agent.admin_url)
        loop = asyncio.get_running_loop()
        book = agent.connections

        class Silent(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                assert isinstance(transport, asyncio.Transport)
                transport.pause_reading()
                for _ in range(64):
                    transport.write(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n")

        transport, _ = await loop.create_connection(Silent, where.host, where.port)
        for _ in range(200):
            if book._stuck:
                break
            transport.write(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 64)
            await asyncio.sleep(0.05)
        book._stuck_s = 0.0
        await until(lambda: book.dropped["stuck"] == 1)
        assert (book.idle, book.busy) == (0, 0)
        transport.abort()
        await healthy(agent.admin_url)
