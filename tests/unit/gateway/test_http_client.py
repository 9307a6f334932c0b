"""Connections that went stale, and what this process has run out of."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas.gateway import http_client
from prfaas.gateway.http_client import HttpClient
from prfaas.testing.mock_http import MockServer

TIMEOUT = aiohttp.ClientTimeout(total=10)


class Server(MockServer):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=await request.read())


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, HttpClient]]:
    server, client = Server(), HttpClient()
    await server.start()
    try:
        yield server, client
    finally:
        await client.close()
        await server.stop()


async def post(server: Server, client: HttpClient) -> bytes:
    async with await client.request("POST", server.url, data=b"x", timeout=TIMEOUT) as answer:
        return await answer.read()


async def test_a_request_on_a_stale_connection_is_sent_again() -> None:
    async with serving() as (server, client):
        assert await asyncio.gather(*(post(server, client) for _ in range(8))) == [b"x"] * 8
        server.reset_kept = True
        assert await asyncio.gather(*(post(server, client) for _ in range(8))) == [b"x"] * 8
        assert server.asked == 16


async def test_a_server_that_dies_with_a_kept_connection_was_lost_not_unreachable() -> None:
    async with serving() as (server, client):
        await post(server, client)
        await server.stop_listening()
        server.reset_kept = True
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(server, client)
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(server, client)


async def test_what_fails_on_a_new_connection_is_not_sent_again() -> None:
    async with serving() as (server, client):

        async def dies(_: web.Request) -> web.Response:
            server.asked += 1
            for transport in server.connections:
                transport.abort()  # type: ignore[attr-defined]
            return web.Response()

        server._answer = dies  # type: ignore[method-assign]
        await server.stop()
        await server.start()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(server, client)
        assert server.asked == 1


@pytest.mark.parametrize("failures", [3, 1000])
async def test_a_request_waits_a_little_for_descriptors(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = aiohttp.connector.aiohappyeyeballs
    connect, left = module.start_connection, failures

    async def out_of_descriptors(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return await connect(*args, **options)

    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(http_client, "_LOCAL_PATIENCE_S", 0.1)
    async with serving() as (server, client):
        monkeypatch.setattr(module, "start_connection", out_of_descriptors)
        if failures < 10:
            assert await post(server, client) == b"x"
        else:
            with pytest.raises(OSError, match="Too many open files"):
                await post(server, client)
