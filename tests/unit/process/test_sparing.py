"""What takes long is made seldom, and given in pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from prfaas.process.front_door import serving_strangers
from prfaas.process.http_handler import in_pieces
from prfaas.process.sparing import Sparing
from prfaas.testing.mock_deployment import until


class Made:
    """Counts what it makes, each of which takes ``takes_s``."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s, self.now, self.times = takes_s, 0.0, 0
        self.sparing = Sparing(self._make, lambda: self.now)

    def _make(self) -> int:
        self.now += self.takes_s
        self.times += 1
        return self.times


def test_a_twentieth_of_the_time_is_spent_at_most() -> None:
    made = Made(0.05)
    assert [made.sparing() for _ in range(100)] == [1] * 100
    made.now = 0.99
    assert made.sparing() == 1
    made.now = 1.0
    assert made.sparing() == 2
    assert made.sparing.anew() == 3
    assert made.sparing() == 3


def test_what_takes_no_time_is_always_as_it_is_now() -> None:
    made = Made(0.0)
    assert [made.sparing(), made.sparing()] == [1, 2]


BODY = bytes(range(256)) * 40_000


@pytest.mark.parametrize("body", [b"", b"short", BODY], ids=len)
async def test_whoever_reads_gets_all_of_it(body: bytes) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await in_pieces(request, body, "text/plain", status=203)

    app = web.Application()
    app.router.add_get("/", answer)
    async with (
        serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1) as url,
        aiohttp.ClientSession(url) as client,
    ):
        for _ in range(2):
            async with client.get("/") as response:
                assert (response.status, await response.read()) == (203, body)
                assert response.headers["Content-Type"] == "text/plain"
                assert response.headers["Content-Length"] == str(len(body))
        async with client.head("/") as response:
            assert response.headers.get("Content-Length", "0") == str(len(body))


async def test_whoever_does_not_read_holds_a_piece_of_it() -> None:
    seen: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.transport)
        return await in_pieces(request, BODY, "text/plain")

    app = web.Application()
    app.router.add_get("/", answer)
    async with serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: bool(seen) and seen[0].get_write_buffer_size() > 0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert 0 < seen[0].get_write_buffer_size() < 300_000
        writer.transport.abort()
        del reader
