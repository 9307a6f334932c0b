"""Ways to engines that are opened and left: bounded, counted, on record; none is cut too soon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from tests.faults.doors import LINE, Door, certificates, healthy, running_agent, shows

from prfaas.agent.service import Agent
from prfaas.core.addresses import parse_url
from prfaas.gateway import tunnel as ways
from prfaas.process import front_door
from prfaas.testing.mock_deployment import until
from prfaas.testing.mock_http import MockServer
from prfaas.tls.context import peer_context
from prfaas.tls.files import TlsFiles


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


async def test_a_gateway_that_has_left_the_file_reads_its_answers_and_asks_nothing_more(
    tmp_path: Path,
) -> None:
    async with tunnels(tmp_path) as (agent, engine, door):
        reader, writer, _ = await tunnel(door, engine)
        writer.write(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"one\n\n")
        async with aiohttp.ClientSession() as http:
            news = [
                await http.get(f"{agent.admin_url}{path}", ssl=door.tls)
                for path in ("/cache/events", "/links/events", "/engines/d/kv-events")
            ]
            for stream in news:
                assert await stream.content.readany()
            others = msgspec.structs.replace(agent.settings, gateways=frozenset({"other"}))
            await agent.take(others)
            for stream in news:
                await asyncio.wait_for(stream.content.read(), 30)
        engine.release.set()
        await reader.readuntil(b"two\n\n")
        writer.write(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"200 OK" not in await reader.read()
        await until(lambda: agent.tunnels.open == 0)


async def test_no_way_leads_to_an_engine_that_has_left_the_file(tmp_path: Path) -> None:
    async with tunnels(tmp_path) as (agent, engine, door):
        settings, found = agent.settings, []
        for reach in (settings.reach, (), settings.reach):
            await agent.take(msgspec.structs.replace(settings, reach=reach))
            _, writer, status = await tunnel(door, engine)
            writer.close()
            followed = agent.caches is not None and agent.caches.record("d") is not None
            found.append((status.split()[1], followed))
        assert found == [(b"200", True), (b"404", False), (b"200", True)]


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


async def test_a_way_that_nobody_waits_for_any_more_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways._Asking, "data_received", lambda asking, data: None)
    async with tunnels(tmp_path) as (agent, engine, door):
        certs = tmp_path / "certs"
        files = TlsFiles(certs / "ca.pem", certs / "gateway.pem", certs / "gateway-key.pem")
        through = peer_context(files, "a", door.address)
        asking = asyncio.ensure_future(
            ways.open_tunnel(asyncio.Protocol, through, parse_url(engine.url))
        )
        await until(lambda: agent.tunnels.open == 1)
        asking.cancel()
        await until(lambda: agent.tunnels.open == 0)
