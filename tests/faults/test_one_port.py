"""Agents with one port for the KV link and HTTP: each gets what is its own, beside strangers."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.faults.doors import certificates, healthy, running_agent, shows

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.addresses import Address, parse_address
from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import PeerError
from prfaas.launch.addresses import claimed
from prfaas.link.protocol.frames import Hello
from prfaas.link.tcp.dialing import introduce

STUCK_S = 60.0
HALF = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


class Two:
    """Agent ``a`` sends to ``b``; each has one port."""

    def __init__(self, agents: dict[str, Agent], client: ssl.SSLContext | None) -> None:
        self.agents, self.client = agents, client

    async def get(self, name: str, path: str, *, post: bool = False) -> Any:
        url = self.agents[name].admin_url + path
        async with (
            aiohttp.ClientSession() as http,
            http.request("POST" if post else "GET", url, ssl=self.client or True) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def linked(self) -> None:
        """Wait until it has connections."""
        until = time.monotonic() + STUCK_S
        while not (await self.get("a", "/links"))["links"][0]["connections"]:
            assert time.monotonic() < until, await self.get("a", "/links")
            await asyncio.sleep(0.05)


@asynccontextmanager
async def two(run: Path, *, secure: bool, workers: int = 0) -> AsyncIterator[Two]:
    certs = certificates(run / "certs") if secure else None
    addresses = dict(zip("ab", claimed("127.0.0.1:0", "127.0.0.1:0", who="test"), strict=True))

    def agent(name: str) -> str:
        own = f"{{ca: {certs}/ca.pem, cert: {certs}/{name}.pem, key: {certs}/{name}-key.pem}}"
        security = f"tls: {own}" if secure else "plaintext: true"
        at = addresses[name]
        return (
            f'{{name: {name}, listen: "{at}", admin: "{at}", socket: {run}/{name}.sock, '
            f"arena: 4 MiB, slot: 64 KiB, link_workers: {workers}, {security}}}"
        )

    shown = f"{{ca: {certs}/ca.pem, cert: {certs}/gateway.pem, key: {certs}/gateway-key.pem}}"
    deployment = parse_deployment(
        f"""
clusters:
- {{name: east, kind: prfaas, engines: [{{name: p, role: prefill}}], agent: {agent("a")}}}
- {{name: west, kind: pd, engines: [{{name: d, role: decode}}], agent: {agent("b")}}}
links: [{{from: east, to: west, rate: 100 Mbit/s}}]
gateway: {f"{{agent_tls: {shown}}}" if secure else "{}"}
""",
        source="test",
    )
    async with AsyncExitStack() as stack:
        agents = {}
        for name in "ba":
            agents[name] = Agent(settings_for(deployment, name))
            await agents[name].start()
            stack.push_async_callback(agents[name].close)
            assert parse_address(agents[name].admin_url.partition("//")[2]) == parse_address(
                addresses[name]
            )
        yield Two(agents, shows(certs, "gateway") if certs else None)


async def connected(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*address)


@pytest.mark.parametrize(("secure", "workers"), [(True, 0), (True, 1), (False, 0)])
async def test_one_port_serves_both(tmp_path: Path, secure: bool, workers: int) -> None:
    async with two(tmp_path, secure=secure, workers=workers) as found:
        for name in "ab":
            assert (await found.get(name, "/health"))["agent"] == name
        await found.linked()
        measured = await found.get("a", "/links/b/measure?seconds=0.5", post=True)
        assert measured["goodput_bytes_per_s"] > 0, measured


async def test_an_agent_without_a_kv_link_serves_http_at_its_one_port(tmp_path: Path) -> None:
    at = claimed("127.0.0.1:0", who="test")[0]
    agent = (
        f'{{name: a, listen: "{at}", admin: "{at}", socket: {tmp_path}/s, arena: 4 MiB, '
        "slot: 64 KiB, plaintext: true}"
    )
    west = f"{{name: west, kind: pd, engines: [{{name: d, role: decode}}], agent: {agent}}}"
    alone = Agent(settings_for(parse_deployment(f"clusters: [{west}]", source="test"), "a"))
    await alone.start()
    try:
        assert parse_address(alone.admin_url.partition("//")[2]) == parse_address(at)
        await healthy(alone.admin_url)
    finally:
        await alone.close()


async def test_strangers_at_one_port_keep_nobody_out(tmp_path: Path) -> None:
    async with two(tmp_path, secure=True) as found, AsyncExitStack() as stack:
        address = parse_address(found.agents["b"].admin_url.partition("//")[2])
        for number in range(300):
            _, writer = await connected(address)
            stack.callback(writer.close)
            writer.write((b"", HALF, HALF[:3], b"GET / HTTP/1.1\r\n\r\n")[number % 4])
        assert (await found.get("b", "/health"))["agent"] == "b"
        await found.linked()
        with pytest.raises(aiohttp.ClientError):  # Without a certificate.
            async with aiohttp.ClientSession() as http:
                await http.get(found.agents["b"].admin_url + "/health", ssl=False)
        nobody = ssl.create_default_context()
        nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
        nobody.set_alpn_protocols(["prfaas-kv"])
        assert await turned_away(address, nobody)


async def turned_away(address: Address, context: ssl.SSLContext) -> bool:
    """In TLS 1.3 a server looks at a client's certificate when that has done all it has to."""
    try:
        reader, writer = await asyncio.open_connection(*address, ssl=context)
        try:
            return not await reader.read(1)
        finally:
            writer.close()
    except (ssl.SSLError, ConnectionError):
        return True


class NoAlpn:
    """What an agent of an older release dials with."""

    def __init__(self, certs: Path) -> None:
        self.client = shows(certs, "a")

    def check_peer(self, sock: ssl.SSLSocket, agent: str) -> None: ...


@pytest.mark.parametrize("secure", [True, False])
async def test_who_speaks_the_kv_link_to_http_is_told_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, secure: bool
) -> None:
    """An agent of an older release, or one that dials where HTTP alone is served."""
    async with AsyncExitStack() as stack:
        if secure:
            agent = (await stack.enter_async_context(two(tmp_path, secure=True))).agents["b"]
        else:
            agent = await stack.enter_async_context(running_agent(None, tmp_path))
        address = agent.admin_url.partition("//")[2]
        tls = NoAlpn(tmp_path / "certs") if secure else None
        sock = await asyncio.to_thread(socket.create_connection, parse_address(address))
        hello = Hello("a", agent.settings.name, 1, 1)
        with pytest.raises(PeerError, match=r"rejected: HTTP is served here.*'prfaas-kv'"):
            await asyncio.to_thread(introduce, sock, tls, hello, address, timeout_s=STUCK_S)
        assert agent.connections.busy == 0
    who = "a" if secure else "unknown"
    assert f"refused cause=kv_link peer={who} " in caplog.text
