"""An application at its address, and what is said where the address cannot be had."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
import uvloop
from aiohttp import web

from prfaas.core.addresses import parse_url
from prfaas.core.errors import ConfigError
from prfaas.process.front_door import serving_strangers
from prfaas.process.http_handler import StrangersHandler
from prfaas.testing.mock_deployment import until
from prfaas.tls.authority import create_authority, issue


def an_application() -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    return app


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
async def test_its_url_tells_the_port_that_was_taken(listen: str) -> None:
    served = serving_strangers(an_application(), listen, what="x.listen", shutdown_timeout_s=1.0)
    async with served as url, aiohttp.ClientSession() as client:
        assert parse_url(url).port > 0
        async with client.get(url) as answer:
            assert await answer.text() == "hello"
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get(url)


async def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"^x.listen {listen}: (?i:.*address already in use)"
        ):
            async with serving_strangers(
                an_application(), listen, what="x.listen", shutdown_timeout_s=1.0
            ):
                pass


async def test_what_is_no_address_is_named_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"^x.listen 'nowhere' is not host:port"):
        async with serving_strangers(
            an_application(), "nowhere", what="x.listen", shutdown_timeout_s=1.0
        ):
            pass


async def test_others_take_over_a_connection_that_begins_as_theirs() -> None:
    def take_over(head: bytes, transport: asyncio.Transport, *_: object) -> None:
        transport.write(b"not here: " + head)
        transport.close()

    served = serving_strangers(
        an_application(), "127.0.0.1:0", what="x", shutdown_timeout_s=1.0,
        others={b"AGREE ": take_over},
    )  # fmt: skip
    async with served as url:
        reader, writer = await asyncio.open_connection(*parse_url(url))
        writer.write(b"AGREE x")
        assert await reader.read() == b"not here: AGREE x"
        writer.close()
        reader, writer = await asyncio.open_connection(*parse_url(url))
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"hello")
        writer.write(b"AGREE x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert b" 400 Bad Request" in await reader.read(), "only its first bytes tell"
        writer.close()


class _OneIsAnswered:
    """A server whose answers wait, and the connection of a client that reads none."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.asked, self.text = 0, "hello"
        self.handlers: list[StrangersHandler] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/{all:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        assert isinstance(request.protocol, StrangersHandler)
        self.handlers.append(request.protocol)
        await self.goes_on.wait()
        return web.Response(text=self.text)


@asynccontextmanager
async def one_is_answered() -> AsyncIterator[
    tuple[_OneIsAnswered, asyncio.StreamReader, asyncio.StreamWriter]
]:
    server = _OneIsAnswered()
    served = serving_strangers(server.app, "127.0.0.1:0", what="x", shutdown_timeout_s=0.1)
    async with served as url:
        reader, writer = await asyncio.open_connection(*parse_url(url))
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: server.asked == 1)
        try:
            yield server, reader, writer
        finally:
            server.goes_on.set()
            writer.transport.abort()


LARGE = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\nX: " + b"x" * 8000 + b"\r\n\r\n"


async def test_requests_behind_one_that_is_answered_wait_unread() -> None:
    async with one_is_answered() as (server, reader, writer):
        (handler,) = server.handlers
        writer.write((LARGE + b"y" * 60_000) * 40)
        await until(lambda: handler.transport is not None and not _reads(handler))
        assert len(handler._messages) <= 32  # Of one read.
        held = sum(len(piece) for _, body in handler._messages for piece in body._buffer)
        assert held < 512 * 1024
        server.goes_on.set()
        await until(lambda: server.asked == 41)
        assert (await reader.read(64)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [False, True], ids=["while it is made", "while it is sent"])
async def test_a_head_without_end_behind_one_that_is_answered_ends_the_connection(
    sent: bool,
) -> None:
    async with one_is_answered() as (server, reader, writer):
        if sent:
            server.text *= 20_000_000
            server.goes_on.set()
            await until(lambda: server.handlers[0]._answered is not None)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: h\r\n"
            + b"".join(b"X-%d: " % n + b"x" * 4000 + b"\r\n" for n in range(12))
        )
        with suppress(ConnectionError):
            assert len(await reader.read()) < 20_000_000
        assert server.asked == 1


async def test_a_body_behind_another_request_is_no_head() -> None:
    async with one_is_answered() as (server, _, writer):
        server.goes_on.set()
        for _ in range(3):
            writer.write(LARGE)
            for _ in range(6):
                writer.write(b"y" * 10_000)
                await writer.drain()
        await until(lambda: server.asked == 4)


def _reads(handler: StrangersHandler) -> bool:
    return isinstance(handler.transport, asyncio.ReadTransport) and handler.transport.is_reading()


@pytest.mark.parametrize("waits", [0, 6], ids=["just open", "waiting"])
@pytest.mark.parametrize("turns", range(6))
async def test_who_comes_while_the_door_closes_leaves_no_open_socket(
    turns: int, waits: int, caplog: pytest.LogCaptureFixture
) -> None:
    served = serving_strangers(
        an_application(), "127.0.0.1:0", what="x.listen", shutdown_timeout_s=1.0
    )
    with ExitStack() as clients:
        async with served as url:
            for _ in range(waits):
                await asyncio.sleep(0)
            for _ in range(20):
                clients.enter_context(socket.create_connection(parse_url(url)))
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()  # What is open still warns, which fails the test.
    assert not caplog.records


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_peer_that_does_not_answer_the_end_of_tls_leaves_no_open_socket(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    create_authority(tmp_path)
    files = issue(tmp_path, "localhost")
    server, client = (ssl.SSLContext(p) for p in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    server.load_cert_chain(files.cert, files.key)
    client.load_verify_locations(files.ca)

    def connected(url: str) -> ssl.SSLSocket:
        sock = socket.create_connection(parse_url(url))
        return client.wrap_socket(sock, server_hostname="localhost")

    async def served() -> ssl.SSLSocket:
        app = an_application()
        door = serving_strangers(
            app, "127.0.0.1:0", what="x.listen", shutdown_timeout_s=1.0, tls=server
        )
        async with door as url:
            return await asyncio.to_thread(connected, url)

    with asyncio.Runner(loop_factory=loop) as runner:
        silent = runner.run(served())
    with silent:
        gc.collect()  # What is open still warns, which fails the test.
