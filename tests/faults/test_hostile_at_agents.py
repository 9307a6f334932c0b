"""What only an agent's door has to bear: thousands of strangers, and readers that take nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from tests.faults.doors import (
    SAYS,
    Rekeying,
    at_agent,
    certificates,
    healthy,
    running_agent,
    shows,
)

from prfaas.agent import admin
from prfaas.core.addresses import parse_url
from prfaas.process import sparing
from prfaas.process.sparing import Sparing
from prfaas.testing.mock_deployment import until
from prfaas.tls import records


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


async def test_another_agents_certificate_holds_no_connections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has taken a machine can ask for little, and keeps no gateway out of others."""
    async with at_agent(tmp_path, tls=True, insider=True) as door:
        door.book.most = 30
        kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        for path in (b"/links/events", b"/links", b"/metrics") * 40:
            reader, writer = await door.connect()
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            kept.append((reader, writer))
            assert door.book.strangers + door.book.idle + door.book.busy <= 30
        await door.well()
        for _, writer in kept:
            writer.transport.abort()
        await until(lambda: door.book.strangers == 0)
    assert "Traceback" not in caplog.text


async def test_another_agent_that_changes_keys_again_and_again_is_ended(tmp_path: Path) -> None:
    async with at_agent(tmp_path, tls=True, insider=True) as door:
        assert door.tls is not None
        client = Rekeying(door.tls, *await asyncio.open_connection(*door.address))
        await client.begin()
        client.change_keys(records.MOST)
        with pytest.raises(ConnectionResetError):
            await client.ask()
        await client.end()
        await door.well()


@pytest.mark.parametrize("path", ["/metrics", "/engines"])
async def test_what_another_agent_may_ask_for_is_not_made_anew_each_time(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "_SHARE", 1e-9)
    certs = certificates(tmp_path / "certs")
    made, anew = 0, Sparing.anew

    def counted(self: Sparing[bytes]) -> bytes:
        nonlocal made
        made += 1
        return anew(self)

    monkeypatch.setattr(Sparing, "anew", counted)
    async with running_agent(certs, tmp_path) as agent, aiohttp.ClientSession() as http:
        for name, times in (("b", 1), ("gateway", 21)):
            context = shows(certs, name)
            for _ in range(20):
                async with http.get(agent.admin_url + path, ssl=context) as answer:
                    assert answer.status == 200
            assert made == times


async def test_a_follower_that_goes_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "LINK_EVENT_PERIOD_S", 0.0)
    monkeypatch.setattr(admin, "LINK_EVENT_PAUSE_S", 0.0)
    async with at_agent(tmp_path, tls=True) as door:
        gateway = shows(tmp_path / "certs", "gateway")
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*door.address, ssl=gateway)
            writer.write(b"GET /links/events HTTP/1.1\r\nHost: h\r\n\r\n")
            await reader.readuntil(b"links")
            writer.transport.abort()
        await until(lambda: door.book.busy == 0)
        await door.well()
    assert "Traceback" not in caplog.text


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


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Transfer-Encoding: chunked\r\n", b"zz\r\n"),
        (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n", b"abcd"),
        (b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", b"4\r\nabcd\r\n"),
    ],
    ids=["bad chunk", "no gzip", "no gzip in chunks"],
)
async def test_a_body_that_cannot_be_read_is_refused(
    headers: bytes, body: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_agent(None, tmp_path) as agent:
        reader, writer = await asyncio.open_connection(*parse_url(agent.admin_url))
        writer.write(b"PUT /gateways/abcdefgh HTTP/1.1\r\nHost: h\r\n" + headers + b"\r\n")
        await asyncio.sleep(0.01)  # In a piece of its own.
        writer.write(body)
        assert b" 400 " in await reader.readline()
        writer.transport.abort()
    assert "Traceback" not in caplog.text
