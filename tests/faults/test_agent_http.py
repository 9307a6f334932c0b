"""An agent's HTTP as a stranger, a wrong peer and a gateway find it: real sockets, real
certificates."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import pytest

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.addresses import Address, parse_url
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import LinkError
from prfaas.gateway.agent_client import AgentClient
from prfaas.gateway.http_client import HttpClient
from prfaas.tls.authority import create_authority, issue, revoke
from prfaas.tls.context import client_context, peer_context
from prfaas.tls.files import TlsFiles

GATEWAYS_ONLY = ("/gateways", "/cache", "/cache/events", "/transfers/t1")
ANY_PEER = ("/health", "/metrics", "/links", "/engines")


class Place(NamedTuple):
    """``certs``: what `prfaas certs` has written, ``url``: the agent's HTTP."""

    certs: Path
    url: str


def deployment(certs: Path, run: Path) -> Deployment:
    own = f"ca: {certs}/ca.pem, cert: {certs}/%s.pem, key: {certs}/%s-key.pem"
    return parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  engines: [{{name: d, role: decode, url: "http://127.0.0.1:1"}}]
  agent: {{name: a, socket: {run}/s, arena: 4 MiB, slot: 64 KiB, tls: {{{own % ("a", "a")}}}}}
gateway: {{agent_tls: {{{own % ("gateway", "gateway")}}}}}
""",
        source="test",
    )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    certs = tmp_path / "certs"
    create_authority(certs)
    for name in ("a", "b", "gateway"):
        issue(certs, name)
    agent = Agent(settings_for(deployment(certs, tmp_path), "a"))
    await agent.start()
    try:
        yield Place(certs, agent.admin_url)
    finally:
        await agent.close()


def files(certs: Path, name: str) -> TlsFiles:
    return TlsFiles(certs / "ca.pem", certs / f"{name}.pem", certs / f"{name}-key.pem")


async def status(place: Place, path: str, context: ssl.SSLContext | bool) -> int:
    async with aiohttp.ClientSession() as http, http.get(place.url + path, ssl=context) as answer:
        return answer.status


async def test_gateways_may_ask_for_everything_others_for_nothing_of_prompts(place: Place) -> None:
    assert place.url.startswith("https://")
    gateway, other = (client_context(files(place.certs, name)) for name in ("gateway", "b"))
    for path in ANY_PEER:
        assert await status(place, path, gateway) == 200
        assert await status(place, path, other) == 200
    for path in ("/gateways", "/cache", "/transfers/t1"):
        assert await status(place, path, gateway) == 200
    for path in GATEWAYS_ONLY:
        assert await status(place, path, other) == 403


async def test_without_a_certificate_of_the_authority_nobody_comes_in(
    place: Place, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    create_authority(foreign)
    issue(foreign, "gateway")
    issue(place.certs, "expired", days=-1)
    stranger = ssl.create_default_context(cafile=str(place.certs / "ca.pem"))
    stranger.check_hostname = False
    impostor = client_context(files(foreign, "gateway"))
    impostor.load_verify_locations(place.certs / "ca.pem")
    for context in (stranger, impostor, client_context(files(place.certs, "expired"))):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await status(place, "/metrics", context)
    with pytest.raises(aiohttp.ClientError):
        await status(Place(place.certs, place.url.replace("https", "http")), "/metrics", True)


async def test_old_tls_gets_nothing(place: Place) -> None:
    old = client_context(files(place.certs, "gateway"))
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(aiohttp.ClientError):
        await status(place, "/health", old)


async def test_a_gateway_speaks_to_the_agent_that_it_means(place: Place) -> None:
    http = HttpClient()
    try:
        for name, met in (("a", True), ("b", False)):
            client = AgentClient(name, place.url, http)
            client.tls = peer_context(files(place.certs, "gateway"), name, Address("127.0.0.1", 1))
            if met:
                assert await client.engines() == []
                continue
            with pytest.raises(LinkError, match="certificate is issued to a, not to 'b'"):
                await client.engines()
    finally:
        await http.close()


async def test_who_never_ends_its_handshake_keeps_nobody_out(place: Place) -> None:
    host, port = place.url.removeprefix("https://").split(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
    assert await status(place, "/health", client_context(files(place.certs, "gateway"))) == 200
    for _, writer in held:
        writer.close()


async def test_a_revoked_gateways_open_connection_ends(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    create_authority(certs)
    for name in ("a", "b", "gateway"):
        issue(certs, name)
    revoke(certs, "b")
    text = deployment(certs, tmp_path)
    settings = settings_for(text, "a")
    assert settings.tls is not None
    crl = msgspec.structs.replace(settings.tls, crl=certs / "crl.pem")
    agent = Agent(msgspec.structs.replace(settings, tls=crl))
    await agent.start()
    try:
        context = client_context(files(certs, "gateway"))
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{agent.admin_url}/links/events", ssl=context) as stream,
        ):
            assert await stream.content.readline()
            revoke(certs, "gateway")
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(stream.read(), 30)
        with pytest.raises((aiohttp.ClientError, OSError)):
            await status(Place(certs, agent.admin_url), "/links", context)
    finally:
        await agent.close()


async def test_who_was_revoked_before_it_asks_is_told_nothing(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    create_authority(certs)
    for name in ("a", "b", "gateway"):
        issue(certs, name)
    own = settings_for(deployment(certs, tmp_path), "a")
    crl = msgspec.structs.replace(files(certs, "a"), crl=revoke(certs, "b"))
    agent = Agent(msgspec.structs.replace(own, tls=crl))
    await agent.start()
    try:
        where = parse_url(agent.admin_url)
        reader, writer = await asyncio.open_connection(
            where.host, where.port, ssl=client_context(files(certs, "gateway")), server_hostname=""
        )
        revoke(certs, "gateway")
        assert agent.peers.tls is not None
        agent.peers.tls.read(crl)
        for path in (b"/metrics", b"/health", b"/cache", b"/cache"):
            writer.write(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        writer.close()
    finally:
        await agent.close()
