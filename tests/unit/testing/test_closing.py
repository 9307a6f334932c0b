"""Mock servers lose nobody who comes while they end: an open socket would fail some later test."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager

import pytest
from aiohttp import web

from prfaas.core.addresses import parse_url
from prfaas.testing.mock_http import MockServer
from prfaas.testing.raw_server import talking


class Mute(MockServer):
    """Serves nothing."""

    def routes(self) -> list[web.RouteDef]:
        return []


@asynccontextmanager
async def mute() -> AsyncIterator[str]:
    server = Mute()
    await server.start()
    yield server.url
    await server.stop()


async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("server", [mute, lambda: talking(listens)], ids=["HTTP", "raw"])
@pytest.mark.parametrize("turns", range(6))
async def test_who_comes_while_a_server_ends_leaves_no_open_socket(
    server: Callable[[], AbstractAsyncContextManager[str]], turns: int
) -> None:
    with ExitStack() as clients:
        async with server() as url:
            for _ in range(5):
                await asyncio.sleep(0)
            for _ in range(3):
                clients.enter_context(socket.create_connection(parse_url(url)))
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()  # What is open still warns, which fails the test.
