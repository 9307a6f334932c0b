"""Large answers, and clients that do not read them."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from prfaas.gateway import answers, whole_answer
from prfaas.gateway.usage import Counts
from prfaas.gateway.whole_answer import UNREAD
from prfaas.testing.mock_deployment import MockDeployment, until

MIB = 1 << 20
BODY = json.dumps({"input": "x"}).encode()
TWO = """
  tenants:
    - {name: alice, api_keys: [alice]}
    - {name: mallory, api_keys: [mallory]}
"""


@asynccontextmanager
async def embedding(
    size: int, gateway: str = ""
) -> AsyncIterator[tuple[MockDeployment, aiohttp.ClientSession]]:
    """A gateway whose engines answer so many bytes, and a client of it."""
    mock, vectors = MockDeployment(gateway=gateway), b"[" + b"1" * (size - 2) + b"]"

    async def embed(_request: web.Request) -> web.Response:
        return web.Response(body=vectors, content_type="application/json")

    for engine in mock.engines.values():
        engine.embeds, engine._embed = True, embed  # type: ignore[method-assign,assignment]
    async with mock.running() as client:
        await mock.ready()
        yield mock, client


class Client:
    """Asks and reads as much as it is told to."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        url = client._base_url
        assert url is not None
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._sock.connect((str(url.host), int(url.port or 0)))
        self._sock.setblocking(False)

    async def ask(self, key: str = "") -> None:
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nX-Api-Key: {key}\r\n"
        rest = f"Content-Length: {len(BODY)}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(self._sock, (head + rest).encode() + BODY)

    async def read(self, size: int) -> int:
        """How many bytes come of so many, before the connection ends."""
        come = 0
        try:
            while come < size:
                data = await asyncio.get_running_loop().sock_recv(self._sock, MIB)
                if not data:
                    break
                come += len(data)
        except ConnectionError:
            pass
        return come

    def close(self) -> None:
        self._sock.close()


async def test_answers_that_nobody_reads_are_bounded_and_the_largest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(UNREAD, "most", 48 * MIB)
    size = 32 * MIB
    async with embedding(size) as (_, client):
        slow, late = Client(client), Client(client)
        await slow.ask()
        await until(lambda: any(0 < answer.left < size for answer in UNREAD._held_by))
        await late.ask()
        assert await late.read(size) < size, "there is no room for two"
        assert len(UNREAD._held_by) == 1
        assert await slow.read(size) >= size, "whoever has read some keeps its answer"
        await until(lambda: UNREAD.held == 0)
        async with client.post("/v1/embeddings", data=BODY) as response:
            assert len(await response.read()) == size
        slow.close()
        late.close()


async def test_many_answers_that_one_tenant_does_not_read_are_not_at_anothers_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size = 8 * MIB
    async with embedding(size, TWO) as (_, client):
        unread = [Client(client) for _ in range(4)]
        for number, one in enumerate(unread):
            await one.ask("mallory")
            await until(lambda least=number: len(UNREAD._held_by) > least)
        monkeypatch.setattr(UNREAD, "most", UNREAD.held + MIB)
        async with client.post(
            "/v1/embeddings", data=BODY, headers={"X-Api-Key": "alice"}
        ) as response:
            assert len(await response.read()) == size, "the largest of all is nobody's fault"
        assert [await one.read(size) < size for one in unread].count(True) >= 1
        for one in unread:
            one.close()
        await until(lambda: UNREAD.held == 0)


async def test_small_answers_that_nobody_reads_hold_few_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(whole_answer, "_MOST_UNREAD", 16)
    monkeypatch.setattr(UNREAD, "most", 230 * MIB)
    async with embedding(6 * MIB) as (mock, client):
        unread = [Client(client) for _ in range(6)]
        for one in unread:
            await one.ask()
        book = mock.gateway.access.connections
        ends = [asyncio.ensure_future(one.read(6 * MIB)) for one in unread[3:]]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: book.busy <= 3)
        await asyncio.gather(*ends)
        for one in unread:
            one.close()


async def test_a_connection_is_busy_as_long_as_its_answer_is_read() -> None:
    """One that asks for nothing is ended for another, or after a while."""
    async with embedding(32 * MIB) as (mock, client):
        slow = Client(client)
        await slow.ask()
        await until(lambda: UNREAD.held > 0)
        book = mock.gateway.access.connections
        assert (book.busy, book.idle) == (1, 0)
        assert await slow.read(32 * MIB) >= 32 * MIB
        await until(lambda: (book.busy, book.idle) == (0, 1))
        slow.close()


async def test_an_answer_is_in_memory_and_counts_until_the_last_of_it_has_gone() -> None:
    size = 32 * MIB
    async with embedding(size) as (_, client):
        slow = Client(client)
        await slow.ask()
        come = await slow.read(size // 2)
        assert UNREAD.held >= size
        await slow.read(size - come)
        await until(lambda: UNREAD.held == 0)
        slow.close()


PROGRAM = """
import asyncio
from pathlib import Path
from aiohttp import web
from prfaas.gateway.whole_answer import UNREAD, WholeAnswer
from prfaas.process.front_door import serving_strangers

SIZE, COUNT = 48 << 20, 8

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024

async def answer(request):
    return WholeAnswer(status=200, body=b"x" * SIZE, headers={})

async def main():
    app = web.Application()
    app.router.add_get("/", answer)
    async with serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1) as url:
        before, kept = resident_mib(), []
        for _ in range(COUNT):
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
            await reader.readuntil(b"\\r\\n\\r\\n")
            left = SIZE
            while left:
                left -= len(await reader.read(1 << 16))
            kept.append(writer)
        while UNREAD.held:
            await asyncio.sleep(0.01)
        grown = resident_mib() - before
        assert grown < 4 * (SIZE >> 20), f"{grown} MiB more"

asyncio.run(main())
"""


def test_nothing_of_an_answer_stays_while_its_connection_is_kept() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)


async def test_what_an_engine_answers_is_its_tenants_while_it_comes() -> None:
    come = asyncio.Event()

    async def part(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"{" + b" " * (2 * MIB))
        await come.wait()
        await response.write(b"}")
        return response

    mock = MockDeployment(gateway=TWO)
    for engine in mock.engines.values():
        engine.embeds = True
        engine._embed = engine._complete = part  # type: ignore[method-assign,assignment]
    async with mock.running() as client:
        await mock.ready()
        for path, body in (("/v1/embeddings", BODY), ("/v1/completions", b'{"prompt": "a"}')):
            come.clear()
            answer = asyncio.ensure_future(
                client.post(path, data=body, headers={"X-Api-Key": "mallory"})
            )
            (room,) = mock.gateway._http._rooms.values()
            await until(lambda found=room: found.held >= MIB)
            assert room._held_of.keys() == {"mallory"}
            come.set()
            async with await answer as response:
                assert response.status == 200
                assert len(await response.read()) == 2 * MIB + 2


async def test_an_answer_counts_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    size, looks, done = 4 * MIB, asyncio.Event(), asyncio.Event()

    async def counts(content: bytes, most: int) -> Counts:
        looks.set()
        await done.wait()
        return Counts(1)

    async def complete(_request: web.Request) -> web.Response:
        return web.Response(body=b"{" + b" " * (size - 2) + b"}", content_type="application/json")

    monkeypatch.setattr(answers, "counts_in", counts)
    mock = MockDeployment()
    for engine in mock.engines.values():
        engine._complete = complete  # type: ignore[method-assign,assignment]
    async with mock.running() as client:
        await mock.ready()
        answer = asyncio.ensure_future(client.post("/v1/completions", data=b'{"prompt": "a"}'))
        await asyncio.wait_for(looks.wait(), 60)
        (room,) = mock.gateway._http._rooms.values()
        assert room.held > size - MIB
        done.set()
        async with await answer as response:
            assert len(await response.read()) == size
        await until(lambda: room.held == UNREAD.held == 0)


async def test_who_goes_in_the_middle_holds_nothing() -> None:
    async with embedding(32 * MIB) as (_, client):
        gone = Client(client)
        await gone.ask()
        await until(lambda: UNREAD.held > 0)
        gone.close()
        await until(lambda: UNREAD.held == 0)


@pytest.mark.parametrize("size", [2, 65536, 65537, 3 * 65536])
async def test_answers_arrive_as_they_are(size: int) -> None:
    async with embedding(size) as (_, client):
        for _ in range(2):  # Over one connection.
            async with client.post("/v1/embeddings", data=BODY) as response:
                assert len(await response.read()) == size == response.content_length
        assert UNREAD.held == 0
