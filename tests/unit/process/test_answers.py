"""Answers that do not end are not read to their end."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prfaas.core.errors import EngineError
from prfaas.process.answers import read_at_most


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(1024))


async def _short(request: web.Request) -> web.Response:
    return web.Response(body=b"short")


async def test_an_answer_is_read_as_far_as_it_may_be_long() -> None:
    app = web.Application()
    app.router.add_get("/endless", _endless)
    app.router.add_get("/short", _short)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        async with http.get(server.make_url("/short")) as response:
            assert await read_at_most(response, 5) == b"short"
        async with http.get(server.make_url("/short")) as response:
            with pytest.raises(EngineError, match="more than 4 bytes"):
                await read_at_most(response, 4)
        async with http.get(server.make_url("/endless")) as response:
            with pytest.raises(EngineError, match="more than 65536 bytes"):
                await read_at_most(response, 65536)
