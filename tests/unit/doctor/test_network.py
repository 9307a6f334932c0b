"""The network checks against a deployment of mock processes, and against nothing."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from email.utils import formatdate

import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.doctor import network
from prfaas.doctor.finding import Finding
from prfaas.doctor.network import check_network
from prfaas.testing.mock_deployment import MockDeployment
from prfaas.tls.agents import Trust


async def findings(deployment: Deployment, *, skew_s: float = 0.0) -> dict[str, Finding]:
    found = check_network(deployment, Trust(deployment), clock=lambda: time.time() + skew_s)
    return {finding.check: finding async for finding in found}


async def test_processes_that_answer_and_lines_that_are_up() -> None:
    mock = MockDeployment()
    async with mock.running():
        found = await findings(mock.deployment())
        late = await findings(mock.deployment(), skew_s=60)
    for name in ("engine e1", "engine d2", "agent east-agent", "line east -> west"):
        assert found[name].level == "ok"
    assert found["line east -> west"].found.startswith("1 connection, RTT 30.0 ms")
    assert (late["agent west-agent"].level, late["line east -> west"].level) == ("warning", "ok")
    # A Date header has whole seconds.
    assert re.search("differs by -6[01] s", late["agent west-agent"].found)


async def test_what_does_not_answer_is_told_from_what_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mock = MockDeployment()
    async with mock.running():
        deployment = mock.deployment()
    found = await findings(deployment)
    assert found["agent east-agent"].level == "note"
    assert "is free for it" in found["agent east-agent"].found
    assert "cannot tell" in found["line east -> west"].found
    host, _, port = deployment.cluster("east").agents[0].admin.rpartition(":")
    monkeypatch.setattr(network, "_TIMEOUT_S", 0.1)  # Who has taken it never answers.
    with socket.create_server((host, int(port))):
        taken = (await findings(deployment))["agent east-agent"]
    assert (taken.level, "ss -ltnp" in taken.advice) == ("error", True)


@pytest.mark.parametrize("date", ["Date: tomorrow\r\n", "Date: Mon, 1 Jan 99999\r\n", ""])
async def test_anything_may_answer_and_say_any_time(date: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{date}Content-Length: 0\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    place = "{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        text = "{clusters: [{name: w, kind: pd, agent: {name: a, plaintext: true}, engines: [" + (
            f'{{name: d, role: decode, url: "http://{place}", kv_events: "tcp://h:1"}}]}}]}}'
        )
        found = (await findings(parse_deployment(text, source="t")))["engine d"]
    assert (found.level, found.found) == (
        "note",
        f"answers at {place}, and does not say what time it has",
    )


@pytest.mark.parametrize(("status", "level"), [(400, "warning"), (200, "warning"), (401, "ok")])
async def test_an_engine_that_answers_strangers_over_the_network_is_found(
    status: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM asks for its key at some paths alone."""
    monkeypatch.setattr(network, "stays_here", lambda _: False)
    now = formatdate(usegmt=True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        said = status if b"/invocations" in asked else 200
        head = f"HTTP/1.1 {said} x\r\nDate: {now}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    place = "{}:{}".format(*server.sockets[0].getsockname())
    async with server:
        text = "{clusters: [{name: w, kind: pd, agent: {name: a, plaintext: true}, engines: [" + (
            f'{{name: d, role: decode, url: "http://{place}", api_key_env: K, kv_events: "tcp://h:1"}}]}}]}}'
        )
        found = (await findings(parse_deployment(text, source="t")))["engine d"]
    assert found.level == level
    assert ("KeyForAll" in found.advice) == (level == "warning")
