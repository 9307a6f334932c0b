"""What ``prfaas doctor`` says of processes that are reached over mutual TLS, on machines that have
all files or few: a real agent, real certificates."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from prfaas.agent.service import Agent
from prfaas.agent.settings import settings_for
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.doctor.examine import examine
from prfaas.doctor.finding import Finding
from prfaas.launch.addresses import free_address
from prfaas.testing.mock_http import MockServer
from prfaas.tls.agents import Trust
from prfaas.tls.authority import create_authority, issue, renew_list, revoke


def deployment(run: Path, engine: str) -> Deployment:
    def own(name: str) -> str:
        mine = f"cert: {run}/{name}.pem, key: {run}/{name}-key.pem"
        return f"ca: {run}/ca.pem, crl: {run}/crl.pem, {mine}"

    return parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  machines:
  - name: west-1
    engines: [{{name: d, role: decode, url: "{engine}"}}]
    agent: {{name: a, admin: "{free_address()}", listen: "{free_address()}", socket: {run}/s,
             arena: 4 MiB, slot: 64 KiB, tls: {{{own("a")}}}}}
  - name: west-2
    engines: [{{name: e, role: decode, url: "{engine}"}}]
    agent: {{name: b, admin: "255.255.255.255:1", listen: "255.255.255.255:2", socket: {run}/t,
             tls: {{{own("b")}}}}}
gateway: {{listen: "{free_address()}", admin: "0.0.0.0:9", agent_tls: {{{own("gateway")}}},
           tls: {{cert: {run}/front.pem, key: {run}/front-key.pem, ca: {run}/front-ca.pem}}}}
""",
        source="test",
    )


async def findings(asked: Deployment) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(asked, now=time.time())}


class Engine(MockServer):
    def routes(self) -> list[web.RouteDef]:
        return [web.get("/health", self._health)]

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="fine")


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Deployment]:
    """An engine listens, and the agent of the first of two machines, which say that theirs has that
    address."""
    create_authority(tmp_path)
    for name in ("a", "b", "gateway"):
        issue(tmp_path, name)
    renew_list(tmp_path)
    engine = Engine()
    await engine.start()
    asked = deployment(tmp_path, engine.url)
    agent = Agent(settings_for(asked, "a"))
    await agent.start()
    yield asked
    await agent.close()
    await engine.stop()


async def test_engines_are_those_of_their_machines_and_none_that_is_here(
    asked: Deployment,
) -> None:
    found = await findings(asked)
    assert found["engine d"].level == "ok"
    assert "of a, clocks agree" in found["engine d"].found
    assert found["engine e"].level == "warning"
    assert "agent b:" in found["engine e"].found
    assert "end it" not in (found["engine e"].advice or "")


async def test_who_has_no_gateways_certificate_is_not_told_to_start_what_runs(
    asked: Deployment, tmp_path: Path
) -> None:
    for name in ("gateway", "a"):
        (tmp_path / f"{name}.pem").rename(tmp_path / f"{name}.elsewhere")
    found = await findings(asked)
    assert found["agent a"].level == "ok"
    assert (found["engine d"].level, "403" in found["engine d"].found) == ("note", True)
    (tmp_path / "b.pem").unlink()
    assert (await findings(asked))["engine d"].level == "note"


async def test_a_machine_without_the_authority_of_clients_looks_at_all_else(
    asked: Deployment, tmp_path: Path
) -> None:
    found = await findings(asked)
    assert found["gateway"].level == "note"
    assert "front-ca.pem is not on this machine" in found["gateway"].found
    trust = Trust(asked).of(f"{asked.gateway.url}/")
    assert isinstance(trust, ssl.SSLContext)
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert not trust.get_ca_certs()


async def test_who_is_revoked_is_said_to_be_and_a_list_that_is_away_hides_nothing_else(
    asked: Deployment, tmp_path: Path
) -> None:
    revoke(tmp_path, "a")
    found = await findings(asked)
    for name in ("agent a", "engine d"):
        assert "certificate revoked" in found[name].found, found[name]
    (tmp_path / "crl.pem").unlink()
    found = await findings(asked)
    assert (found["network"].level, "crl.pem" in found["network"].found) == ("error", True)
