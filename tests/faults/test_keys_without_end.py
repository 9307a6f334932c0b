"""Whose certificate is good changes its TLS keys, or gives tickets, without end, or speaks in
records of a byte: at an agent's KV link, or where a gateway asks it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.faults.doors import change_keys, give_tickets

from prfaas.agent.arena import Arena
from prfaas.core.addresses import parse_address
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.gateway import http_client
from prfaas.gateway.credentials import read_credentials
from prfaas.gateway.http_answer import Answer, ConnectionBroke, Timeouts
from prfaas.gateway.http_client import HttpClient
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.shared_memory import SharedMemory
from prfaas.testing.link_kit import MemorySink
from prfaas.testing.waiting import until
from prfaas.tls import authority
from prfaas.tls.context import peer_context, server_context
from prfaas.tls.files import TlsFiles
from prfaas.tls.front import front_context
from prfaas.tls.live import LiveTls
from prfaas.tls.pace import Pace

KEYS, RECORDS = 150_000, 30_000
"""A second or so of whoever reads them; half of one."""


class Rekeying:
    """A connection to an agent's KV link that has shown its certificate, and not said who it is."""

    def __init__(self, at: str, files: TlsFiles) -> None:
        self.sock = socket.create_connection(parse_address(at))
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._end = LiveTls(files).client.wrap_bio(self._in, self._out)
        done = False
        while not done:
            try:
                self._end.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            self.sock.sendall(self._out.read())
            if not done:
                self._in.write(self.sock.recv(65536))

    def change_keys(self, times: int) -> None:
        """All at once."""
        change_keys(self._end, times, both=False)
        with suppress(ConnectionError):
            self.sock.sendall(self._out.read())


@pytest.mark.parametrize("workers", [0, 1], ids=["agent", "worker"])
def test_who_does_so_at_a_kv_link_keeps_nobody_out(tmp_path: Path, workers: int) -> None:
    """OpenSSL reads on for as long as new keys come, in the one thread that lets peers in."""
    authority.create_authority(tmp_path)
    east, west, other = (authority.issue(tmp_path, name) for name in ("east", "west", "other"))
    arena = Arena("west", 1 << 20)
    config = TcpLinkConfig(name="west", security=west, workers=workers, handshake_timeout_s=60)
    link = TcpLink(config, MemorySink(), SharedMemory(arena.fd, arena.view))
    links = [link]
    try:
        if (found := link.workers) is not None:
            until(lambda: found.ready, "the worker")
        hostile = Rekeying(link.address, east)

        def has_ended() -> bool:
            """If not, then again: where it was slower than its reader, that had time for others."""
            ended = link.counters().turned_away.get("handshake") == 1
            if not ended:
                hostile.change_keys(KEYS)
            return ended

        with hostile.sock:
            until(has_ended, "its end")
            peers = {"west": PeerConfig(address=link.address)}
            config = TcpLinkConfig(name="other", security=other, peers=peers)
            links.append(TcpLink(config, MemorySink()))
            until(lambda: link.counters().incoming_connections, "the other")
    finally:
        for each in reversed(links):
            each.close()
        arena.close()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _new_keys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Before each letter, and no end."""
    for _ in range(20):
        change_keys(writer.get_extra_info("ssl_object"), 5, both=False)
        writer.write(b"1\r\na\r\n")
        await writer.drain()
    await reader.read()


async def _tickets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The same of tickets, of which a record may have hundreds."""
    for _ in range(20):
        give_tickets(writer.get_extra_info("ssl_object"), 5)
        writer.write(b"1\r\na\r\n")
        await writer.drain()
    await reader.read()


async def _small_records(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Six for each letter."""
    for _ in range(RECORDS // 6):
        for letter in b"1\r\na\r\n":
            writer.write(bytes([letter]))
    writer.write(b"0\r\n\r\n")
    await writer.drain()


@asynccontextmanager
async def _asked(at: Path, who: str, serve: Serve) -> AsyncIterator[Answer]:
    """The answer of an agent, or engine, to a gateway."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await serve(reader, writer)
        writer.close()

    authority.create_authority(at)
    gateway = authority.issue(at, "gateway")
    files = authority.issue(at, "a", called="localhost" if who == "engine" else None)
    shown = server_context(files) if who == "agent" else front_context(files.cert, files.key)
    server = await asyncio.start_server(answer, "localhost", 0, ssl=shown)
    port = server.sockets[0].getsockname()[1]
    trusted = (
        peer_context(gateway, "a", parse_address(f"localhost:{port}"))
        if who == "agent"
        else read_credentials(_deployment(files, port), {})["d"].tls
    )
    client, url = HttpClient(), f"https://localhost:{port}"
    try:
        found = await client.request("GET", url, "/", timeouts=Timeouts(60.0), tls=trusted)
        try:
            yield found
        finally:
            found.close()
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


def _deployment(files: TlsFiles, port: int) -> Deployment:
    return parse_deployment(
        f"""
clusters:
  - name: c
    kind: pd
    agent: {{name: a}}
    engines: [{{name: d, role: decode, url: "https://localhost:{port}", ca: {files.ca}}}]
""",
        source="a test",
    )


@pytest.mark.parametrize("without_end", [_new_keys, _tickets], ids=["keys", "tickets"])
@pytest.mark.parametrize("who", ["agent", "engine"])
async def test_who_does_so_when_a_gateway_asks_is_left(
    tmp_path: Path, who: str, without_end: Serve
) -> None:
    """Nobody behind TLS hears of them, so that nobody has turns beside them."""
    async with _asked(tmp_path, who, without_end) as answer:
        with pytest.raises(ConnectionBroke):
            await answer.read()


@pytest.mark.parametrize("who", ["agent", "engine"])
async def test_an_answer_in_records_of_a_byte_leaves_others_time(
    tmp_path: Path, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway deciphered all of it in one go: 300,000 records took two seconds."""
    monkeypatch.setattr(http_client, "SMALL_RECORDS_PER_S", RECORDS / 2)
    held: list[tuple[bool, bool]] = []
    came = Pace.came

    def comes(pace: Pace, size: int) -> None:
        before = pace.holds
        came(pace, size)
        held.append((before, pace.holds))

    monkeypatch.setattr(Pace, "came", comes)
    async with _asked(tmp_path, who, _small_records) as answer:
        assert await answer.read() == b"a" * (RECORDS // 6)
    assert (False, True) in held, "nothing was slowed down"
    assert (True, True) not in held, "it was read all the same"
