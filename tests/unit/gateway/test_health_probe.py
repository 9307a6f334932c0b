"""Health checks over a kept connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from prfaas.core.addresses import parse_address
from prfaas.core.errors import EngineError
from prfaas.gateway.health_probe import HealthProbe
from prfaas.launch.addresses import free_address
from prfaas.testing.raw_server import talking

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Server:
    """Answers each request with the next of ``answers``, in the pieces given; None hangs up."""

    def __init__(self) -> None:
        self.answers: list[list[bytes] | None] = []
        self.connections = 0
        self.asked: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        while True:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            pieces = self.answers.pop(0) if self.answers else [OK]
            if pieces is None:
                return
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)


@asynccontextmanager
async def probing() -> AsyncIterator[tuple[Server, HealthProbe, asyncio.Event]]:
    server, lost = Server(), asyncio.Event()
    async with talking(server.talk) as url:
        probe = HealthProbe(url, lost.set)
        try:
            yield server, probe, lost
        finally:
            probe.close()


async def test_one_connection_serves_many_checks() -> None:
    async with probing() as (server, probe, _):
        server.answers = [[OK], [OK[:10], OK[10:30], OK[30:]]]
        for _ in range(3):
            assert await probe.status(60.0) == 200
        assert server.connections == 1
        assert server.asked[0].startswith(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:")


async def test_an_answer_without_a_length_ends_the_connection() -> None:
    async with probing() as (server, probe, lost):
        server.answers = [[b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]]
        assert await probe.status(60.0) == 503
        assert await probe.status(60.0) == 200
        assert server.connections == 2
        assert not lost.is_set()


async def test_a_kept_connection_that_breaks_is_told_at_once() -> None:
    async with probing() as (server, probe, lost):
        assert await probe.status(60.0) == 200
        server.writers[0].transport.abort()
        async with asyncio.timeout(60):
            await lost.wait()
        assert await probe.status(60.0) == 200


async def test_where_a_request_could_not_connect_a_check_has_to() -> None:
    """It lives, as the kept connection says, and is of no use."""
    alive: list[bool] = []
    async with probing() as (server, probe, lost):
        probe._on_alive = lambda: alive.append(True)
        assert await probe.status(60.0) == 200
        here, probe._url = probe._url, parse_address(free_address())
        assert await probe.status(60.0) == 200
        probe.doubt()
        for _ in range(2):
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await probe.status(60.0)
        assert (server.connections, len(server.asked), len(alive)) == (1, 4, 2)
        probe._url = here
        for _ in range(3):
            assert await probe.status(60.0) == 200
        assert (server.connections, len(alive), lost.is_set()) == (2, 2, False)


async def test_a_server_that_hangs_up_on_every_check_is_an_error() -> None:
    async with probing() as (server, probe, _):
        server.answers = [None, None]
        with pytest.raises(ConnectionError):
            await probe.status(60.0)


@pytest.mark.parametrize("garbage", [b"hello\r\n\r\n", b"x" * 70_000])
async def test_what_is_no_http_is_the_engines_error(garbage: bytes) -> None:
    async with probing() as (server, probe, _):
        server.answers = [[garbage]]
        with pytest.raises(EngineError):
            await probe.status(60.0)
        assert await probe.status(60.0) == 200


async def test_a_silent_server_is_not_waited_for() -> None:
    async with probing() as (server, probe, _):
        server.answers = [[]]
        with pytest.raises(TimeoutError):
            await probe.status(0.01)
