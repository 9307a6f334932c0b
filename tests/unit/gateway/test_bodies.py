"""Bodies are admitted before they are read, and all together bounded."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from prfaas.core.deployment import GatewayConfig, TenantConfig
from prfaas.gateway import bodies
from prfaas.gateway.api_errors import ApiError, TooManyRequests
from prfaas.gateway.bodies import Bodies, Places
from prfaas.gateway.tenants import Tenant, Tenants, read_tenants
from prfaas.process.front_door import serving_strangers
from prfaas.testing.mock_deployment import until


class Served:
    """An application that holds each body until ``release`` is set."""

    def __init__(self, most_bytes: int, *, within_s: float = 20.0) -> None:
        self.bodies = Bodies(most_bytes, within_s)
        self.release = asyncio.Event()
        self.read: list[int] = []

    async def take(self, request: web.Request) -> web.Response:
        try:
            whose = request.headers.get("Tenant")
            async with self.bodies.reading(request, whose=whose) as raw:
                self.read.append(len(raw))
                await self.release.wait()
        except ApiError as error:
            return web.Response(status=error.status, headers=error.headers)
        return web.Response(text=str(len(raw)))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[aiohttp.ClientSession]:
        app = web.Application(client_max_size=1000)
        app.router.add_post("/", self.take)
        async with (
            serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1) as url,
            aiohttp.ClientSession(url) as client,
        ):
            yield client


async def test_what_would_be_too_much_is_refused_before_it_is_sent() -> None:
    served = Served(1000)
    async with served.client() as client:
        first = asyncio.create_task(client.post("/", data=b"x" * 700))
        await until(lambda: served.read == [700])

        # Of the second not a byte is sent.
        url = client._base_url
        assert url is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 400\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: 1\r\n" in head
        writer.close()
        assert served.bodies.held_bytes == 700
        served.release.set()
        assert (await first).status == 200
        assert served.bodies.held_bytes == 0
        assert (await client.post("/", data=b"x" * 400)).status == 200


async def test_what_is_not_announced_counts_as_it_comes() -> None:
    served = Served(1000)
    async with served.client() as client:

        async def pieces(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield b"x" * 300

        first = asyncio.create_task(client.post("/", data=pieces(2)))
        await until(lambda: served.read == [600])
        assert (await client.post("/", data=pieces(2))).status == 429
        assert served.bodies.held_bytes == 600
        served.release.set()
        assert (await first).status == 200
        assert (await client.post("/", data=pieces(4))).status == 413
        assert served.bodies.held_bytes == 0


async def test_what_one_tenant_holds_or_announces_leaves_room_for_others() -> None:
    served = Served(1000)
    a, b = {"Tenant": "a"}, {"Tenant": "b"}
    async with served.client() as client:
        first = asyncio.create_task(client.post("/", data=b"x" * 400, headers=a))
        await until(lambda: served.read == [400])
        assert (await client.post("/", data=b"x" * 200, headers=a)).status == 429
        second = asyncio.create_task(client.post("/", data=b"x" * 600, headers=b))
        await until(lambda: served.read == [400, 600])
        served.release.set()
        assert [(await task).status for task in (first, second)] == [200, 200]
        assert served.bodies.held_bytes == 0
        assert (await client.post("/", data=b"x" * 600, headers=a)).status == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def tenants_of(clock: Clock, *names: str, takes_s: float, **limits: object) -> list[Tenant]:
    """The first's requests take so long."""
    configs = tuple(TenantConfig(name=n, api_keys=(n,), **limits) for n in names)  # type: ignore[arg-type]
    found = list(Tenants(read_tenants(GatewayConfig(tenants=configs)), clock))
    for _ in range(60):
        with found[0].using() as use:
            use.take_tokens(1, 1)
            clock.now += takes_s
    return found


def told_s(places: Places, taken: int, tenant: Tenant) -> int | None:
    with pytest.raises(TooManyRequests) as refused, tenant.using(), places.one(taken, tenant):
        pass
    return refused.value.retry_after_s


def test_who_finds_no_place_is_told_when_one_is_free_by_how_long_its_own_take() -> None:
    (alone,) = tenants_of(Clock(), "a", takes_s=60)
    assert told_s(Places(4), 4, alone) == 15
    assert told_s(Places(600), 600, alone) == 1


def test_others_requests_say_nothing_of_when_there_is_a_place() -> None:
    clock = Clock()
    slow, quick = tenants_of(clock, "a", "b", takes_s=800)
    places = Places(16)
    assert told_s(places, 16, slow) == 50
    assert told_s(places, 16, quick) == 1, "though all places are those of slow ones"
    with contextlib.ExitStack() as taken:
        for number in range(13):
            taken.enter_context(places.one(number, slow))
        found = {told_s(places, others, slow) for others in (14, 15, 16)}
        assert found == {150}, (
            "until the last eighth is free, and one: how many are others' is not told"
        )


def test_who_may_come_once_a_second_need_not_come_sooner_for_a_place() -> None:
    (few,) = tenants_of(Clock(), "a", takes_s=100, requests_per_s=0.01)
    assert told_s(Places(100), 100, few) == 100


async def test_who_finds_no_room_is_told_when_there_is_some_by_how_long_bodies_were_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served, clock = Served(1000), Clock()
    monkeypatch.setattr(bodies, "_now", clock)
    a, b = {"Tenant": "a"}, {"Tenant": "b"}

    async def told_s(size: int, who: dict[str, str]) -> int:
        async with client.post("/", data=b"x" * size, headers=who) as answer:
            assert answer.status == 429
            return int(answer.headers["Retry-After"])

    async with served.client() as client:
        for who in (a, b, {}):
            served.release.clear()
            served.read.clear()
            first = asyncio.create_task(client.post("/", data=b"x" * 400, headers=who))
            await until(lambda: served.read == [400])
            clock.now += 3.0 if who is b else 60.0
            served.release.set()
            await first
        served.release.clear()
        held = [
            asyncio.create_task(client.post("/", data=b"x" * 400, headers=who)) for who in (a, b)
        ]
        await until(lambda: served.read == [400, 400, 400])
        assert await told_s(200, a) == 15, "of 400 bytes of its own 100 too many, for a minute"
        assert await told_s(300, b) == 2, "of 400 bytes of its own 200 too many, for 3 s"
        assert await told_s(500, {"Tenant": "c"}) == 1, "nothing of theirs"
        assert await told_s(800, {}) == 45, "600 of 800 bytes, for a minute"
        served.release.set()
        await asyncio.gather(*held)


async def test_a_small_body_that_unpacks_to_a_large_one_is_large() -> None:
    served = Served(10_000)
    served.release.set()
    async with served.client() as client:
        headers = {"Content-Encoding": "gzip"}
        packed = gzip.compress(b"x" * 900)
        answer = await client.post("/", data=packed, headers=headers)
        assert await answer.text() == "900"
        packed = gzip.compress(b"x" * 5000)
        assert (await client.post("/", data=packed, headers=headers)).status == 413
        assert served.bodies.held_bytes == 0


async def test_one_that_does_not_come_is_not_waited_for() -> None:
    served = Served(1000, within_s=0.05)
    async with served.client() as client:

        async def stuck() -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        async with client.post("/", data=stuck()) as answer:
            assert answer.status == 408
        assert served.bodies.held_bytes == 0


@pytest.mark.parametrize("size", [999, 1000])
async def test_alone_a_body_is_let_in(size: int) -> None:
    served = Served(10)
    served.release.set()
    async with served.client() as client:
        assert (await client.post("/", data=b"x" * size)).status == 200


async def test_what_is_packed_tighter_than_text_takes_as_long_as_what_is_made_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tenant's small requests would take as long as large ones, however few it may send."""
    monkeypatch.setattr(bodies, "_LOOSE_BYTES", 100)
    monkeypatch.setattr(bodies, "_TIGHT_BYTES_PER_S", 0.1)
    served = Served(10_000, within_s=2.0)
    served.release.set()
    text = random.Random(1).randbytes(400).hex().encode()
    async with served.client() as client:
        for body, status in ((b"x" * 1000, 408), (text, 200), (b"x" * 90, 200)):
            headers = {"Content-Encoding": "gzip", "Tenant": "a"}
            async with client.post("/", data=gzip.compress(body), headers=headers) as answer:
                assert answer.status == status
        async with client.post("/", data=b"x" * 1000, headers={"Tenant": "a"}) as answer:
            assert answer.status == 200  # It has come as it is.


async def test_large_bodies_that_are_complete_at_one_time_are_read_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "_LOOSE_BYTES", 100)
    monkeypatch.setattr(bodies, "_READ_BYTES_PER_S", 2000.0)
    served = Served(10_000)
    async with served.client() as client:
        first, second, small = (
            asyncio.create_task(client.post("/", data=b"x" * size)) for size in (900, 900, 100)
        )
        await until(lambda: len(served.read) == 3)
        assert served.read[0] == 100  # It has not waited for others' turns.
        served.release.set()
        for task in (first, second, small):
            (await task).release()
