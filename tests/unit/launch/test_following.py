"""Processes of a deployment as its file changes. They are stand-ins, which answer at once."""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.launch.test_joining import file

from prfaas.core.deployment import AgentConfig, Deployment, EngineConfig
from prfaas.core.errors import ConfigError
from prfaas.launch import following
from prfaas.launch import supervisor as launching
from prfaas.launch.addresses import resolve
from prfaas.launch.child import ChildState
from prfaas.launch.commands import Command
from prfaas.launch.following import Following
from prfaas.launch.joining import joined
from prfaas.launch.ray.asking import unused_by
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.supervisor import Supervisor, local_engines
from prfaas.testing.mock_deployment import until

ANSWERS = """
import http.server, pathlib, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = pathlib.Path(sys.argv[2]).with_name("key")
        wanted = page.read_text() if page.exists() and self.path == "/metrics" else None
        if wanted not in (None, self.headers["Authorization"]):
            return self.send_error(401)
        self.send_response(200); self.end_headers()
        self.wfile.write(pathlib.Path(sys.argv[2]).read_bytes())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def plaintext(deployment: Deployment) -> Deployment:
    return deployment.with_machines(
        lambda machine: msgspec.structs.replace(
            machine, agent=msgspec.structs.replace(machine.agent, plaintext=True)
        )
    )


class Site:
    """``page``: what every process says, the gateway's metrics among them, these to operators alone
    where there is ``key``."""

    def __init__(self, run: Path, started: Supervisor) -> None:
        self.page, self.key, self.supervisor = run / "page", run / "key", started
        self.said: list[str] = []
        self.following = Following(
            started,
            lambda new: joined(new, started.deployment, gpus=(), sockets=run, certs=run / "none"),
            self.said.append,
        )

    def names(self) -> list[str]:
        every = (*self.supervisor.agents, *self.supervisor.engines, *self.supervisor.gateways)
        return [child.name for child in every if child.state is ChildState.READY]

    def known(self, *engines: str) -> None:
        lines = [f'prfaas_gateway_engine_up{{engine="{engine}"}} 1.0' for engine in engines]
        self.page.write_text("\n".join(lines))


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    page = tmp_path / "page"
    page.write_text("")

    def command(url: str) -> Command:
        port = url.rpartition(":")[2]
        return Command((sys.executable, "-c", ANSWERS, port, str(page)), {})

    def engine_command(deployment: Deployment, engine: EngineConfig, **_: Any) -> Command:
        if engine.name == "broken":
            return Command((sys.executable, "-c", "raise SystemExit(3)"), {})
        return command(str(engine.url))

    def agent_command(agent: AgentConfig, _file: Path, **_: Any) -> Command:
        return command(agent.admin_url)

    def gateway_command(_file: Path, **_: Any) -> Command:
        return command(deployment.gateway.listen)

    monkeypatch.setattr(launching, "engine_command", engine_command)
    monkeypatch.setattr(launching, "agent_command", agent_command)
    monkeypatch.setattr(launching, "gateway_command", gateway_command)
    monkeypatch.setattr(launching, "installed_vllm", lambda: "cpu")
    run, asked = RunDirectory(tmp_path), plaintext(file("a", "b"))
    deployment = resolve(asked, sockets=tmp_path)
    async with Supervisor(
        deployment, local_engines=local_engines(asked), run=run, changed=lambda child: None
    ) as started:
        found = Site(tmp_path, started)
        found.known("a", "b")
        await started.start()
        yield found
        await found.following.close()
    run.close()


async def test_what_joins_is_started_and_what_left_ends_when_gateways_forget_it(
    site: Site,
) -> None:
    watching = asyncio.create_task(site.supervisor.watch())
    before = {child.name: child.pid for child in site.supervisor.engines}
    site.following.take(plaintext(file("a", "c", machines=("second",))))
    await until(lambda: {"c", "second-d", "second-agent"} <= set(site.names()), within_s=60)
    assert "b" in site.names(), "the gateway still knows it"
    site.known("a", "c", "second-d")
    await until(lambda: "b" not in [child.name for child in site.supervisor.engines], within_s=60)
    assert {c.name: c.pid for c in site.supervisor.engines}["a"] == before["a"]
    site.following.take(plaintext(file("a", "c")))
    site.known("a", "c")
    await until(lambda: sorted(site.names()) == ["a", "c", "first-agent", "gateway"], within_s=60)
    assert not watching.done()
    watching.cancel()
    assert site.said[:2] == ["second-agent starts", "c starts"]


async def test_a_newcomer_that_does_not_come_up_ends_nobody_else(site: Site) -> None:
    watching = asyncio.create_task(site.supervisor.watch())
    site.following.take(plaintext(file("a", "b", "broken")))
    await until(lambda: any("ended with status 3" in line for line in site.said), within_s=60)
    await until(lambda: sorted(site.names()) == ["a", "b", "first-agent", "gateway"], within_s=60)
    assert not watching.done()
    watching.cancel()


async def test_a_file_that_cannot_be_taken_changes_nothing(site: Site) -> None:
    before = site.supervisor.deployment
    with pytest.raises(ConfigError, match="has changed"):
        site.following.take(plaintext(file("a", "b", args=["--x"])))
    assert site.supervisor.deployment is before
    assert len(site.names()) == 4


def shown_to_operators(site: Site, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[str]:
    """Have its gateway tell them alone. Grows with each time that it is asked whether an engine has
    left it."""
    started, asked = site.supervisor, list[str]()
    gateway = msgspec.structs.replace(started.deployment.gateway, **settings)
    started.deployment = started.deployment.with_gateways(lambda _: gateway)
    site.key.write_text("Bearer op")
    is_known = site.following._is_known

    async def look(engine: str) -> bool | None:
        asked.append(engine)
        return await is_known(engine)

    monkeypatch.setattr(site.following, "_is_known", look)
    monkeypatch.setattr(following, "_NOTICED_S", 0.0)
    return asked


def leave(site: Site, engine: str) -> None:
    children = [child for child in site.supervisor.engines if child.name == engine]
    site.following._run(site.following._end(children))


async def test_an_operators_key_is_shown_to_gateways_that_tell_operators_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What left was ended at once, with all that it was answering."""
    asked = shown_to_operators(site, monkeypatch, operator_keys=("op",), drain="0 s")
    leave(site, "b")
    await until(lambda: len(asked) == 4, within_s=60)
    assert "b" in site.names(), "the gateway still knows it"
    site.known("a")
    await until(lambda: "b" not in site.names(), within_s=60)
    deployment = site.supervisor.deployment
    url = f"{deployment.gateway.own_urls[0]}/metrics"
    trust = ssl.create_default_context()
    name = deployment.gateway.name
    assert await asyncio.to_thread(unused_by, name, url, trust, deployment) == ["b"]
    assert await site.supervisor._unused_engines() == ["b"]


async def test_where_gateways_tell_nothing_what_left_has_its_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = shown_to_operators(site, monkeypatch, drain="1000 s")
    site.known("a")
    leave(site, "b")
    await until(lambda: len(asked) == 4, within_s=60)
    assert "b" in site.names(), "it may be answering"
    shown_to_operators(site, monkeypatch, drain="0 s")
    leave(site, "a")
    await until(lambda: "a" not in site.names(), within_s=60)
    deployment = site.supervisor.deployment
    url = f"{deployment.gateway.own_urls[0]}/metrics"
    trust = ssl.create_default_context()
    name = deployment.gateway.name
    assert await asyncio.to_thread(unused_by, name, url, trust, deployment) == []
    assert await site.supervisor._unused_engines() == [], "it waited for them for 30 s"
