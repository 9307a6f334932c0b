"""Connections that went stale, and what this process has run out of."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from prfaas.gateway import http_client
from prfaas.gateway.http_answer import (
    Answer,
    CannotConnect,
    ConnectionBroke,
    NotHttp,
    Timeouts,
)
from prfaas.gateway.http_client import HttpClient
from prfaas.gateway.room import Room
from prfaas.testing.mock_http import MockServer
from prfaas.testing.raw_server import talking

TIMEOUTS = Timeouts(10.0)


class Server(MockServer):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/", self._answer), web.get("/where/{rest:.*}", self._where)]

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(body=await request.read())

    async def _where(self, request: web.Request) -> web.Response:
        return web.json_response([request.raw_path, request.headers["Host"]])


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Server, HttpClient]]:
    server, client = Server(), HttpClient()
    await server.start()
    try:
        yield server, client
    finally:
        await client.close()
        await server.stop()


async def post(server: Server, client: HttpClient, data: bytes = b"x") -> bytes:
    async with await client.request(
        "POST", server.url, "/", data=data, timeouts=TIMEOUTS
    ) as answer:
        return await answer.read()


async def test_a_request_on_a_stale_connection_is_sent_again() -> None:
    async with serving() as (server, client):
        assert await asyncio.gather(*(post(server, client) for _ in range(8))) == [b"x"] * 8
        server.reset_kept = True
        assert await asyncio.gather(*(post(server, client) for _ in range(8))) == [b"x"] * 8
        assert server.asked == 16


async def test_a_connection_is_used_again_and_ended_when_it_has_been_idle_for_long() -> None:
    async with serving() as (server, client):
        for _ in range(5):
            await post(server, client, b"x" * 300_000)
        assert len(server.connections) == 1
        client._keepalive_s = 0.0  # Whatever was used before is too old.
        client._expire()
        assert not client._peers
        await post(server, client)
        assert len(server.connections) == 2


async def test_a_server_that_dies_with_a_kept_connection_was_lost_not_unreachable() -> None:
    async with serving() as (server, client):
        await post(server, client)
        await server.stop_listening()
        server.reset_kept = True
        with pytest.raises(ConnectionBroke):
            await post(server, client)
        with pytest.raises(CannotConnect):
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
        with pytest.raises(ConnectionBroke):
            await post(server, client)
        assert server.asked == 1


async def test_the_path_goes_out_as_it_is_behind_that_of_the_url() -> None:
    async with serving() as (server, client):
        for url in (f"{server.url}/where", f"{server.url}/where/"):
            async with await client.request("GET", url, "/a%2Fb?c=%20", timeouts=TIMEOUTS) as got:
                host = server.url.removeprefix("http://")
                assert await got.read() == f'["/where/a%2Fb?c=%20", "{host}"]'.encode()


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/a b", {}), ("a", {}), ("/\r\n", {}), ("/", {"X": "a\r\nY: b"}), ("/", {"X\n": "a"})],
)
async def test_what_would_be_more_than_one_line_is_refused(
    path: str, headers: dict[str, str]
) -> None:
    client = HttpClient()
    with pytest.raises(ValueError, match=r"no path|one line"):
        await client.request("GET", "http://127.0.0.1:1", path, headers=headers, timeouts=TIMEOUTS)
    await client.close()


@pytest.mark.parametrize("failures", [3, 1000])
async def test_a_request_waits_a_little_for_descriptors(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    connect, left = loop.create_connection, failures

    async def out_of_descriptors(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return await connect(*args, **options)

    monkeypatch.setattr(http_client, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(http_client, "_LOCAL_PATIENCE_S", 0.1)
    async with serving() as (server, client):
        monkeypatch.setattr(loop, "create_connection", out_of_descriptors)
        if failures < 10:
            assert await post(server, client) == b"x"
        else:
            with pytest.raises(OSError, match=r"Too many open files|cannot connect") as raised:
                await post(server, client)
            assert raised.value.errno == errno.EMFILE


async def test_large_answers_are_not_at_the_cost_of_small_ones() -> None:
    room = Room(100_000)
    small, large = (Answer(Nowhere(), TIMEOUTS, room) for _ in range(2))
    reading = []
    for answer in (small, large):
        answer.begin(200)
        reading.append(asyncio.ensure_future(answer.read()))
    await asyncio.sleep(0)
    small.add(bytes(10))
    large.add(bytes(99_850))
    small.add(bytes(200))
    small.end()
    assert await reading[0] == bytes(210)
    with pytest.raises(NotHttp, match="room for"):
        await reading[1]
    assert room.held >= 210, "it is in memory until it has been looked at"
    small.close()
    assert room.held == 0


async def test_many_answers_of_one_tenant_are_not_at_anothers_cost() -> None:
    room = Room(100_000)
    many = [Answer(Nowhere(), TIMEOUTS, room, "mallory") for _ in range(3)]
    large = Answer(Nowhere(), TIMEOUTS, room, "alice")
    reading = []
    for answer in (*many, large):
        answer.begin(200)
        reading.append(asyncio.ensure_future(answer.read()))
    await asyncio.sleep(0)
    for answer in many:
        answer.add(bytes(20_000))
    large.add(bytes(45_000))
    large.end()
    assert await reading.pop() == bytes(45_000)
    assert [answer._failure is None for answer in many].count(False) == 1
    for answer in many:
        answer.end()
    found = await asyncio.gather(*reading, return_exceptions=True)
    assert sum(isinstance(each, NotHttp) for each in found) == 1
    for answer in (*many, large):
        answer.close()
    assert room.held == 0
    assert not room._held_of


async def test_what_has_come_of_one_tenants_answers_is_not_at_anothers_cost() -> None:
    room = Room(100_000)
    made = [Answer(Nowhere(), TIMEOUTS, room, whose) for whose in ("mallory", "alice", "mallory")]
    reading = []
    for answer, size in zip(made, (90_000, 15_000, 10), strict=True):
        answer.begin(200)
        reading.append(asyncio.ensure_future(answer.read()))
        await asyncio.sleep(0)
        answer.add(bytes(size))
        if answer is not made[2]:
            answer.end()
    assert await reading[0] == bytes(90_000), "it is being looked at"
    assert await reading[1] == bytes(15_000)
    with pytest.raises(NotHttp, match="room for"):
        await reading[2]
    for answer in made:
        answer.close()
    assert room.held == 0


async def test_what_comes_in_small_pieces_counts_as_what_it_takes() -> None:
    room = Room(100_000)
    answer = Answer(Nowhere(), TIMEOUTS, room)
    answer.begin(200)
    reading = asyncio.ensure_future(answer.read())
    await asyncio.sleep(0)
    came, taken = 0, 0
    while answer._failure is None:
        piece = bytes((came % 256, 1))
        came, taken = came + 2, taken + sys.getsizeof(piece)
        answer.add(piece)
    assert taken < 100_000
    with pytest.raises(NotHttp, match="room for"):
        await reading


class Nowhere:
    """A connection of which nothing comes by itself."""

    def abort(self) -> None: ...

    def go_on(self) -> None: ...


async def test_the_servers_of_one_machine_fill_no_more_memory_than_there_is_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_client, "_MOST_ANSWERED", 1 << 20)

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/whole" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(1 << 14))
            await writer.drain()
            await asyncio.sleep(0)

    client = HttpClient()

    async def read(url: str, path: str) -> bytes:
        async with await client.request("GET", url, path, timeouts=TIMEOUTS) as answer:
            return await answer.read()

    async with talking(endless) as one, talking(endless) as other:
        asked = [read(url, "/") for url in (one, other) for _ in range(3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(each, NotHttp) and "room for" in str(each) for each in found)
        assert await read(one, "/whole") == b"ok", "what was given up is free again"
        (room,) = client._rooms.values()
        assert room.held == 0
        await client.close()
