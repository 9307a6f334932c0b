"""Each pair of agents is measured by its sender; what that answers becomes a finding."""

from __future__ import annotations

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.doctor.finding import Finding
from prfaas.doctor.rates import check_rates
from prfaas.link.api import MeasuredLine
from prfaas.tls.agents import Trust

MEASURED = MeasuredLine(
    peer="a-west",
    goodput_bytes_per_s=1.2e9,
    all_bytes_per_s=1.1e9,
    limit_bytes_per_s=None,
    connections=8,
    rtt_s=0.031,
    min_rtt_s=0.03,
)


def deployment(admin: str, rate: str = "") -> Deployment:
    return parse_deployment(
        f"""
clusters:
- name: east
  kind: prfaas
  engines: [{{name: e1, role: prefill}}]
  agent: {{name: a-east, admin: "{admin}", listen: "127.0.0.1:9", plaintext: true}}
- name: west
  kind: pd
  engines: [{{name: d1, role: decode}}]
  agent: {{name: a-west, admin: "127.0.0.1:2", listen: "127.0.0.1:8", plaintext: true}}
links: [{{from: east, to: west{rate}}}]
""",
        source="test",
    )


async def found(answer: web.Response, *, rate: str = "", path: str = "a-west") -> Finding:
    asked: list[str] = []

    async def measure(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        return answer

    app = web.Application()
    app.router.add_post("/links/{peer}/measure", measure)
    async with TestServer(app) as server:
        admin = f"{server.host}:{server.port}"
        measured = deployment(admin, rate)
        trust = Trust(measured)
        (finding,) = [f async for f in check_rates(measured, trust, seconds=0.5)]
    assert asked == [f"/links/{path}/measure?seconds=0.5"]
    assert finding.check == "rate a-east -> a-west"
    return finding


def measured(**changed: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(msgspec.structs.replace(MEASURED, **changed)))


async def test_rate_and_rtt_are_told() -> None:
    finding = await found(measured())
    assert finding.level == "ok"
    assert "9.6 Gbit/s over 8 connections, RTT 30.0 ms, 31.0 ms under this load" in finding.found


async def test_a_line_slower_than_the_file_says_is_a_warning() -> None:
    assert (await found(measured(), rate=", rate: 10 Gbit/s")).level == "ok"
    # What else crossed counts: the line carries it.
    busy = measured(goodput_bytes_per_s=1e6, all_bytes_per_s=1.2e9)
    assert (await found(busy, rate=", rate: 10 Gbit/s")).level == "ok"
    slow = await found(measured(), rate=", rate: 40 Gbit/s")
    assert (slow.level, "prfaas link test" in slow.advice) == ("warning", True)


@pytest.mark.parametrize(
    ("status", "error", "level", "says"),
    [
        (503, "there is no connection to 'a-west'", "warning", "no connection to 'a-west'"),
        (409, "this agent is measuring", "note", "this agent is measuring"),
        (403, "only a gateway", "note", "run 'prfaas doctor' on the machine of a-east"),
        (404, "Not Found", "note", "agent a-east is of an earlier version"),
        (200, "", "note", "agent a-east does not answer"),  # Nonsense for an answer.
    ],
)
async def test_what_is_not_measured_is_said(status: int, error: str, level: str, says: str) -> None:
    body = msgspec.json.encode({"error": error})
    finding = await found(web.Response(status=status, body=body))
    assert finding.level == level
    assert says in finding.found
    assert finding.found.startswith("not measured: ")


async def test_an_agent_that_is_away_is_a_note() -> None:
    asked = deployment("127.0.0.1:1")
    (finding,) = [f async for f in check_rates(asked, Trust(asked), seconds=0.1)]
    assert (finding.level, finding.found) == (
        "note",
        "not measured: agent a-east does not answer",
    )
