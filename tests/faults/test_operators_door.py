"""``gateway.admin`` where other machines reach it: encrypted, nobody else can stand in for it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp import web

from prfaas.cli import drain as verb
from prfaas.core.addresses import parse_address
from prfaas.core.deployment import load_deployment, parse_deployment
from prfaas.gateway.endpoints import resolve
from prfaas.gateway.server import Service, serve
from prfaas.launch.addresses import free_address
from prfaas.testing.closing import close
from prfaas.testing.mock_deployment import until
from prfaas.tls.agents import Trust
from prfaas.tls.authority import create_authority, issue, revoke
from prfaas.tls.front import front_context

KEY = "an-operators-key"


class Place(NamedTuple):
    file: Path
    certs: Path
    port: int


def place(run: Path, *, names: str = "{agent}") -> Place:
    """A deployment file whose gateway has its operators' address on every interface."""
    create_authority(run)
    for name in ("a", "gateway"):
        issue(run, names.replace("{agent}", name))

    def own(name: str) -> dict[str, str]:
        called = names.replace("{agent}", name)
        files = {"cert": f"{run}/{called}.pem", "key": f"{run}/{called}-key.pem"}
        return {"ca": f"{run}/ca.pem", **files, "names": names}

    port = parse_address(free_address()).port
    agent = {"name": "a", "admin": free_address(), "listen": free_address(), "tls": own("a")}
    engine = {"name": "d", "role": "decode", "url": f"http://{free_address()}"}
    cluster = {"name": "west", "kind": "pd", "agent": agent, "engines": [engine]}
    gateway = {
        "listen": free_address(),
        "admin": f"0.0.0.0:{port}",
        "agent_tls": own("gateway"),
        "operator_keys": [KEY],
    }
    file = run / "deployment.json"
    file.write_text(json.dumps({"clusters": [cluster], "gateway": gateway}))
    return Place(file, run, port)


@asynccontextmanager
async def served(at: Place) -> AsyncIterator[None]:
    deployment = load_deployment(at.file)
    serving = asyncio.create_task(serve(Service(deployment, resolve(deployment, source="test"))))

    def listens() -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", at.port)).close()
            return True
        return False

    try:
        await until(listens)
        yield
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def drain(at: Place) -> dict[str, Any]:
    """What ``prfaas drain`` says of the gateway, asked as an operator."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prfaas.cli.main"),
        *("drain", "d", str(at.file), "--undo", "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    (told,) = json.loads(output)
    return told


@pytest.mark.parametrize("names", ["{agent}", "{agent}.prfaas.example"])
async def test_operators_are_served_over_tls_by_the_name_in_the_certificate(
    tmp_path: Path, names: str
) -> None:
    at = place(tmp_path, names=names)
    async with served(at):
        told = await drain(at)
        assert told["gateway"] == f"https://0.0.0.0:{at.port}"
        assert told.get("error") is None


async def test_a_gateway_that_is_revoked_while_it_drains_is_not_shown_the_key_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = place(tmp_path)
    issue(tmp_path, "b")
    text = json.loads(at.file.read_text())
    text["gateway"]["agent_tls"]["crl"] = str(revoke(tmp_path, "b"))
    deployment = parse_deployment(json.dumps(text), source="test")
    asked = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 3:
            revoke(tmp_path, "gateway")
        row = verb.EngineLeft("d", "m", "west", "an operator asked", 0.0, 1)
        return web.json_response({"drains": [msgspec.to_builtins(row)]})

    app = web.Application()
    app.router.add_get("/drain", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        own = front_context(tmp_path / "gateway.pem", tmp_path / "gateway-key.pem")
        await web.TCPSite(runner, "127.0.0.1", at.port, ssl_context=own).start()
        order = verb._Order(None, False, list(deployment.gateway.admin_urls), {}, deployment)
        assert await verb._drain(order, 30.0, as_json=False) == 1
    finally:
        await runner.cleanup()
    assert asked == 3
    assert "was not told" in capsys.readouterr().out


async def test_plaintext_and_old_tls_get_nothing(tmp_path: Path) -> None:
    at = place(tmp_path)
    async with served(at), aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"http://127.0.0.1:{at.port}/metrics")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(aiohttp.ClientError):
            await http.get(f"https://127.0.0.1:{at.port}/health", ssl=old)
        trust = Trust(load_deployment(at.file)).of(f"https://0.0.0.0:{at.port}/health")
        async with http.get(f"https://127.0.0.1:{at.port}/health", ssl=trust) as answer:
            assert answer.status == 200


async def test_an_agent_that_stands_in_its_place_learns_no_key(tmp_path: Path) -> None:
    """It has a certificate of the same authority, in its own name."""
    at, heard = place(tmp_path), list[bytes]()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            heard.append(await reader.read(65536))
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(at.certs / "a.pem", at.certs / "a-key.pem")
    server = await asyncio.start_server(hear, "0.0.0.0", at.port, ssl=context)
    told = await drain(at)
    await close(server)
    assert "certificate is issued to a, not to 'gateway'" in told["error"]
    assert not any(KEY.encode() in said for said in heard)
