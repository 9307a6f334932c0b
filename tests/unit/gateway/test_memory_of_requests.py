"""What requests and connections leave behind: nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import pytest

from prfaas.gateway.exchange import Exchange
from prfaas.gateway.http_answer import Timeouts
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.http_connection import Connection
from prfaas.testing.closing import close
from prfaas.testing.mock_deployment import MockDeployment, until


@contextmanager
def without_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left(kind: type) -> int:
    return sum(type(found) is kind for found in gc.get_objects())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "prompt", ["short", "longer than one block", "so long that it is offloaded" * 3]
)
async def test_its_memory_is_free_without_the_garbage_collector(prompt: str, stream: bool) -> None:
    mock = MockDeployment(block_tokens=16)
    async with mock.running() as client:
        await mock.ready()
        with without_the_collector():
            body = {"prompt": prompt, "stream": stream}
            async with client.post("/v1/completions", json=body) as response:
                assert response.status == 200
                await response.read()
            await until(lambda: not left(Exchange))


WHOLE, HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("says", [WHOLE, WHOLE[:-1], HALF, b"", b"no HTTP\r\n\r\n"])
@pytest.mark.parametrize("hangs", [False, True])
async def test_a_connections_memory_is_free_without_the_garbage_collector(
    says: bytes, hangs: bool
) -> None:
    gone = asyncio.Event()

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(says)
            if not hangs:
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            gone.set()

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    url = "http://{}:{}".format(*server.sockets[0].getsockname())
    client = HttpClient()

    async def ask() -> bytes:
        async with await client.request("GET", url, "/", timeouts=Timeouts(0.2)) as answer:
            return await answer.read()

    with without_the_collector():
        others = left(Connection)
        with suppress(Exception):
            assert await ask() == b"ok"
        await client.close()
        await until(lambda: left(Connection) <= others)
        await gone.wait()
    await close(server)
