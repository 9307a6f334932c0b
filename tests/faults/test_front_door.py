"""Strangers at a gateway's door, on real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.faults.doors import Rekeying

from prfaas.gateway import event_stream
from prfaas.gateway.http import make_admin_app, make_app
from prfaas.process import front_door, sparing
from prfaas.process.front_door import serving_strangers
from prfaas.process.http_handler import StrangersHandler
from prfaas.testing.mock_deployment import MockDeployment, until
from prfaas.tls import records
from prfaas.tls.authority import create_authority, issue
from prfaas.tls.front import FrontTls, front_context, trusting

COMPLETIONS = "/v1/completions"
KEYS = '["secret"]'
CLIENT = {"Authorization": "Bearer secret"}
SLOWLORIS = (
    b"",
    b"G",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-A: ",
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n",
    b"\x16\x03\x01\x02\x00",
)
"""What a hostile connection says and then says no more."""


class Hostile:
    """Connections that are opened, say little, and are kept."""

    def __init__(self, url: Any) -> None:
        self._place = url.host, url.port
        self.writers: list[asyncio.StreamWriter] = []
        self.readers: list[asyncio.StreamReader] = []

    async def open(self, count: int) -> None:
        for _ in range(count):
            try:
                reader, writer = await asyncio.open_connection(*self._place)
            except OSError:
                continue
            writer.write(SLOWLORIS[len(self.writers) % len(SLOWLORIS)])
            self.readers.append(reader)
            self.writers.append(writer)

    def forget_closed(self) -> None:
        """Give back what costs this process a descriptor, and the gateway none any more."""
        for reader, writer in zip(self.readers, self.writers, strict=True):
            if reader.at_eof() or writer.transport.is_closing():
                writer.transport.abort()

    def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


async def test_streams_survive_ten_thousand_hostile_connections(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The engine says nothing meanwhile, and a busy machine takes minutes for so many.
    monkeypatch.setattr(event_stream, "_SILENCE_S", 3600.0)
    began = time.monotonic()
    mock = MockDeployment(keys=KEYS)
    async with mock.running() as client:
        await mock.ready()
        book = mock.gateway.access.connections
        book.most = 200
        for name in ("d1", "d2"):
            mock.engines[name].middle_gate.clear()
        url = (await client.get("/health")).url
        body = {"prompt": "short", "stream": True}
        async with client.post(COMPLETIONS, json=body, headers=CLIENT) as running:
            await running.content.readany()
            hostile = Hostile(url)
            most = 0
            for _ in range(100):
                await asyncio.gather(*(hostile.open(10) for _ in range(10)))
                most = max(most, book.strangers)
                hostile.forget_closed()
            assert len(hostile.writers) == 10_000
            assert most <= 200, "a stranger costs a bounded number of descriptors"
            for name in ("d1", "d2"):
                mock.engines[name].middle_gate.set()
            async with client.post(COMPLETIONS, json={"prompt": "x"}, headers=CLIENT) as another:
                assert another.status == 200
            assert (await running.text()).endswith("data: [DONE]\n\n")
            hostile.close()
        await until(lambda: book.busy == 0)
        assert book.dropped["room"] >= 7_000
    assert not [r for r in caplog.records if r.exc_info], "no traceback"
    lines = [r for r in caplog.records if r.name == front_door.__name__]
    assert len(lines) <= 2 + time.monotonic() - began, "one a second"


async def test_who_says_nothing_complete_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    mock = MockDeployment(keys=KEYS)
    async with mock.running() as client:
        await mock.ready()
        book = mock.gateway.access.connections
        with closing(Hostile((await client.get("/health")).url)) as hostile:
            await hostile.open(2 * len(SLOWLORIS))
            await until(lambda: book.strangers >= 4)
            book._stranger_s = 0.0
            await until(lambda: book.strangers == 0)
            for reader in hostile.readers:
                with suppress(ConnectionError):  # Some are closed before what they say is read.
                    await reader.read()


RAW = {
    "brotli": (b"Content-Encoding: br\r\nContent-Length: 3", b"\x8b\x00\x80"),
    "zstd": (b"Content-Encoding: zstd\r\nContent-Length: 4", b"\x28\xb5\x2f\xfd"),
    "unknown coding": (b"Content-Encoding: rot13\r\nContent-Length: 2", b"{}"),
    "no gzip": (b"Content-Encoding: gzip\r\nContent-Length: 2", b"{}"),
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 3", b"{}"),
    "length and chunks": (b"Content-Length: 2\r\nTransfer-Encoding: chunked", b"0\r\n\r\n"),
    "negative length": (b"Content-Length: -1", b""),
    "a length of 5,000 digits": (b"Content-Length: " + b"0" * 5000 + b"2", b"{}"),
    "bad chunk": (b"Transfer-Encoding: chunked", b"zz\r\n{}\r\n"),
    "long header": (b"X-A: " + b"a" * 9000, b""),
    "many headers": (b"\r\n".join(b"X-%d: a" % n for n in range(200)), b""),
    "header without colon": (b"nonsense", b""),
    "an odd expectation": (b"Expect: the-unexpected\r\nContent-Length: 0", b""),
    "too large, as announced": (b"Content-Length: 99999999999", b""),
    "a bomb": (b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked", None),
}


@pytest.mark.parametrize("what", RAW)
async def test_what_cannot_be_read_gets_an_openai_error(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    mock = MockDeployment(keys=KEYS)
    async with mock.running() as client:
        await mock.ready()
        url = (await client.get("/health")).url
        assert url.host is not None
        reader, writer = await asyncio.open_connection(url.host, url.port)
        headers, body = RAW[what]
        if body is None:
            bomb = gzip.compress(b'{"prompt": "' + bytes(10 * 1024 * 1024) + b'"}')
            body = b"%x\r\n" % len(bomb) + bomb + b"\r\n0\r\n\r\n"
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret\r\n"
            + headers + b"\r\nConnection: close\r\n\r\n" + body
        )  # fmt: skip
        answer = await reader.read()
        writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"413", b"415", b"417"), answer
        error = json.loads(content)["error"]
        assert error["type"] == "invalid_request_error"
        async with client.get("/health") as response:
            assert response.status == 200
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "ill",
    [b"\x01", b"\rX", b"\nX-A\x01: b", b"\n folded", b"a" * 9000],
    ids=["a control character", "half an end", "the next is none", "a fold", "too long"],
)
async def test_no_answer_quotes_a_head_that_is_none(ill: bytes) -> None:
    """There may be a key in it, and others than who has sent it keep errors."""
    mock = MockDeployment(keys=KEYS)
    async with mock.running() as client:
        url = (await client.get("/health")).url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = b"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer secret"
        writer.write(head + ill + b"\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert b" 400 " in answer
        assert len(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]) > 10
        assert b"secret" not in answer


@asynccontextmanager
async def open_door(mock: MockDeployment, tls: FrontTls) -> AsyncIterator[str]:
    async with serving_strangers(
        make_app(mock.gateway),
        "localhost:0",
        what="test",
        shutdown_timeout_s=0.1,
        tls=lambda: tls.context,
    ) as url:
        yield url.replace("127.0.0.1", "localhost").replace("[::1]", "localhost")


async def test_tls_at_the_door_and_another_certificate_while_it_serves(tmp_path: Path) -> None:
    create_authority(tmp_path)
    first = issue(tmp_path, "localhost")
    tls = FrontTls(front_context(first.cert, first.key))
    mock = MockDeployment(keys=KEYS)
    async with mock.running() as client:
        await mock.ready()
        async with open_door(mock, tls) as url, aiohttp.ClientSession(url) as client:
            assert url.startswith("https://")
            context = trusting(first.ca)

            async def serial() -> str:
                async with client.post(
                    COMPLETIONS, json={"prompt": "x"}, headers={**CLIENT, "Connection": "close"},
                    ssl=context,
                ) as response:  # fmt: skip
                    assert response.status == 200
                port = int(url.rpartition(":")[2])
                _, writer = await asyncio.open_connection("localhost", port, ssl=context)
                found = writer.get_extra_info("peercert")["serialNumber"]
                writer.transport.abort()
                return str(found)

            before = await serial()
            again = issue(tmp_path, "localhost")
            tls.context = front_context(again.cert, again.key)
            assert await serial() != before
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await client.get("/health")
            old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            async with client.get("/health", ssl=old) as response:
                assert response.status == 200


@asynccontextmanager
async def beneath_http(at: Path) -> AsyncIterator[tuple[MockDeployment, Rekeying]]:
    """A gateway with TLS, and a client that writes its records itself."""
    create_authority(at)
    own = issue(at, "localhost")
    mock = MockDeployment(keys=KEYS)
    async with (
        mock.running(),
        open_door(mock, FrontTls(front_context(own.cert, own.key))) as url,
    ):
        port = int(url.rpartition(":")[2])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = Rekeying(context, *await asyncio.open_connection("localhost", port))
        await client.begin()
        yield mock, client
        await client.end()


async def test_who_changes_keys_again_and_again_is_ended(tmp_path: Path) -> None:
    """Of 16 MB of that, in one connection, a gateway answered nobody for five seconds."""
    async with beneath_http(tmp_path) as (_, client):
        client.change_keys(records.MOST - 1)
        assert (await client.ask()).startswith(b"HTTP/1.1 200")
        client.change_keys(1)
        with pytest.raises(ConnectionResetError):
            await client.ask()


@pytest.mark.parametrize(("record_bytes", "slowed"), [(1, True), (1000, False)])
async def test_records_of_a_byte_are_read_a_piece_at_a_time(
    record_bytes: int, slowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 32 MB of them, the body of one tenant, a gateway answered nobody for seconds."""
    pauses = 0
    pause = StrangersHandler._pause_transport_reading

    def paused(handler: StrangersHandler) -> None:
        nonlocal pauses
        pauses += 1
        pause(handler)

    monkeypatch.setattr(StrangersHandler, "_pause_transport_reading", paused)
    body = json.dumps({"prompt": "x" * 4000, "max_tokens": 2}).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n"
    async with beneath_http(tmp_path) as (_, client):
        await client.say(f"{head}Authorization: Bearer secret\r\n\r\n".encode(), record_bytes=1000)
        await client.say(body, record_bytes=record_bytes)
        assert (await client.hear()).startswith(b"HTTP/1.1 200")
        assert (pauses > 0) == slowed


async def test_operators_have_an_address_of_their_own_if_asked_for() -> None:
    mock = MockDeployment(gateway="  admin: 127.0.0.1:1\n")
    async with mock.running() as client:
        await mock.ready()
        app = make_admin_app(mock.gateway)
        async with (
            serving_strangers(app, "127.0.0.1:0", what="test", shutdown_timeout_s=0.1) as url,
            aiohttp.ClientSession(url) as admin,
        ):
            for path in ("/ready", "/metrics", "/requests", "/drain"):
                async with client.get(path) as response:
                    assert response.status == 404
                async with admin.get(path) as response:
                    assert response.status == 200
            async with admin.post(COMPLETIONS, json={"prompt": "x"}) as response:
                assert response.status == 404
            for each in (client, admin):
                async with each.get("/health") as response:
                    assert response.status == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", None, 200),
        ("localhost:{port}", "http://localhost:{port}", 200),
        ("[::1]:{port}", None, 200),
        ("0.0.0.0:{port}", None, 200),
        ("127.0.0.1:{port}", "https://evil.example", 403),
        ("127.0.0.1:{port}", "http://127.0.0.1:{other}", 403),
        ("127.0.0.1:{port}", "null", 403),
        ("evil.example:{port}", None, 403),
        ("evil.example:{port}", "http://evil.example:{port}", 403),
        ("evil.example@127.0.0.1:{port}", None, 403),
        ("", None, 403),
    ],
)
async def test_a_page_that_a_browser_on_this_machine_shows_is_no_operator(
    host: str, origin: str | None, status: int
) -> None:
    """Its request comes from the loopback: from another origin, or to a name that leads here."""
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        port = (await client.get("/health")).url.port or 0
        ports = {"port": port, "other": port + 1}
        given = {"Host": host.format(**ports), "Content-Type": "text/plain"}
        if origin is not None:
            given["Origin"] = origin.format(**ports)
        order = json.dumps({"target": "p1"})
        async with client.post("/drain", data=order, headers=given) as response:
            assert response.status == status


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
async def test_what_a_proxy_on_this_machine_passes_on_is_no_operators(name: str) -> None:
    mock = MockDeployment()
    async with mock.running() as client:
        await mock.ready()
        for given, status in (({name: "203.0.113.7"}, 403), ({}, 200)):
            async with client.post("/drain", json={"target": "p1"}, headers=given) as response:
                assert response.status == status


async def test_pages_of_other_origins() -> None:
    mock = MockDeployment(keys=KEYS, gateway="  cors_origins: ['https://app.example']\n")
    preflight = {"Access-Control-Request-Method": "POST"}
    async with mock.running() as client:
        await mock.ready()
        for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
            given = {"Origin": origin}
            async with client.options(COMPLETIONS, headers={**given, **preflight}) as response:
                assert (response.status == 204) is allowed
                said = response.headers.get("Access-Control-Allow-Origin")
                assert said == (origin if allowed else None)
            for stream in (False, True):
                body = {"prompt": "x", "stream": stream}
                async with client.post(
                    COMPLETIONS, json=body, headers={**CLIENT, **given}
                ) as response:
                    said = response.headers.get("Access-Control-Allow-Origin")
                    assert said == (origin if allowed else None)


@pytest.mark.parametrize("path", ["/ready", "/metrics"])
async def test_what_a_stranger_may_ask_for_is_not_made_anew_each_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "_SHARE", 1e-9)
    mock = MockDeployment(keys=KEYS, gateway="  operator_keys: [op-key]")
    async with mock.running() as client:
        await mock.ready()
        made, troubles = 0, mock.gateway.troubles

        def counted() -> list[str]:
            nonlocal made
            made += 1
            return troubles()

        monkeypatch.setattr(mock.gateway, "troubles", counted)
        for _ in range(20):
            async with client.get(path) as response:
                assert response.status == 200
        assert made == 1
        async with client.get(path, headers={"Authorization": "Bearer op-key"}) as response:
            assert response.status == 200
        assert made == 2


@pytest.mark.parametrize("keys", [True, False], ids=["with keys", "on this machine"])
async def test_what_an_operator_has_asked_for_takes_its_time(keys: bool) -> None:
    """Warming takes as long as the prompt does; meanwhile strangers come, and go."""
    mock = MockDeployment(
        keys=KEYS if keys else "[]", gateway="  operator_keys: [op-key]" if keys else ""
    )
    async with mock.running() as client:
        await mock.ready()
        for engine in mock.engines.values():
            engine.first_token_gate.clear()
        warming = asyncio.ensure_future(
            client.post(
                "/cache/warm", json={"prompt": "long"}, headers={"Authorization": "Bearer op-key"}
            )
        )
        await until(lambda: mock.gateway.requests.inflight == 1)
        mock.gateway.access.connections.expire(time.monotonic() + 60.0)
        for engine in mock.engines.values():
            engine.first_token_gate.set()
        async with await warming as response:
            assert response.status == 200
