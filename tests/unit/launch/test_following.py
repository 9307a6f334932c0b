"""Processes of a deployment as its file changes. They are stand-ins, which answer at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.launch.test_joining import file

from prfaas.core.deployment import AgentConfig, Deployment, EngineConfig
from prfaas.core.errors import ConfigError
from prfaas.launch import supervisor as launching
from prfaas.launch.addresses import resolve
from prfaas.launch.child import ChildState
from prfaas.launch.commands import Command
from prfaas.launch.following import Following
from prfaas.launch.joining import joined
from prfaas.launch.run_directory import RunDirectory
from prfaas.launch.supervisor import Supervisor, local_engines
from prfaas.testing.mock_deployment import until

ANSWERS = """
import http.server, pathlib, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(pathlib.Path(sys.argv[2]).read_bytes())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


def plaintext(deployment: Deployment) -> Deployment:
    import msgspec

    return deployment.with_machines(
        lambda machine: msgspec.structs.replace(
            machine, agent=msgspec.structs.replace(machine.agent, plaintext=True)
        )
    )


class Site:
    """``page``: what every process says, the gateway's metrics among them."""

    def __init__(self, run: Path, started: Supervisor) -> None:
        self.page, self.supervisor = run / "page", started
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
