"""Short and long forms of the file give one model, and what mixes them is refused."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError

SHORT = """
clusters:
  - name: west
    kind: pd
    engines: [{name: d0, role: decode}]
    agent: {name: a-west}
gateway: {listen: "0.0.0.0:8000", advertise: "gate.example:80", near: west}
"""
LONG = """
clusters:
  - name: east
    kind: prfaas
    machines:
      - {name: east-1, agent: {name: ae1}, engines: [{name: e1, role: prefill}]}
  - name: west
    kind: pd
    lan: {rate: 10 Gbit/s, connections: 4}
    machines:
      - name: west-1
        agent: {name: aw1, listen: "[::]:7000", advertise: "[2001:db8::5]:7000",
                admin: "127.0.0.1:7001", admin_advertise: "203.0.113.5:7001"}
        engines: [{name: p1, role: prefill}, {name: d1, role: decode}]
      - {name: west-2, agent: {name: aw2}, engines: [{name: d2, role: decode}]}
links: [{from: east, to: west, rate: 1 Gbit/s}]
gateways:
  - {name: gate-a, listen: "127.0.0.1:8000"}
  - {name: gate-b, listen: "127.0.0.1:8001", near: west}
"""


def parsed(text: str, *changes: tuple[str, str]) -> Deployment:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse_deployment(text, source="file.yaml")


def test_a_cluster_in_short_is_one_machine_of_its_name() -> None:
    deployment = parsed(SHORT)
    (machine,) = deployment.cluster("west").machines
    assert (machine.name, machine.agent.name) == ("west", "a-west")
    assert [e.name for e in machine.engines] == ["d0"]
    assert (machine.agent.link_address, machine.agent.admin_address) == ("127.0.0.1:0",) * 2
    assert deployment.gateway.name == "gateway"
    assert deployment.gateway.url == "http://gate.example:80"


def test_machines_and_gateways_in_long() -> None:
    deployment = parsed(LONG)
    assert [m.name for m in deployment.machines] == ["east-1", "west-1", "west-2"]
    assert [a.name for a in deployment.agents] == ["ae1", "aw1", "aw2"]
    assert [e.name for e in deployment.cluster("west").engines] == ["p1", "d1", "d2"]
    assert deployment.agent_of_engine("d2").name == "aw2"
    agent = deployment.machine_of_engine("p1").agent
    assert agent.link_address == "[2001:db8::5]:7000"
    assert agent.admin_url == "http://203.0.113.5:7001"
    assert [g.name for g in deployment.gateways] == ["gate-a", "gate-b"]
    assert deployment.of_gateway("gate-b").gateway.near == "west"
    with pytest.raises(ConfigError, match="no gateway 'gate-c' in the deployment; known: gate-a,"):
        deployment.of_gateway("gate-c")


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_what_is_written_reads_back_the_same(text: str) -> None:
    deployment = parsed(text)
    assert parse_deployment(msgspec.json.encode(deployment), source="again") == deployment


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (SHORT, "    agent: {name: a-west}\n", "", "cluster 'west': give it an agent and engines"),
        (SHORT, "    agent:", "    machines: []\n    agent:", "its machines have the agents"),
        (SHORT, "gateway: {", "gateways: []\ngateway: {", "write gateway (one) or gateways"),
        (SHORT, "near: west", "near: east", "gateway: near: no PD cluster 'east'; known: west"),
        (SHORT, "gate.example:80", "gate.example:0", "gateway: advertise 'gate.example:0' cannot"),
        (LONG, "    kind: prfaas\n", "    kind: prfaas\n    lan: {rate: 1 GB/s}\n", "leave 'lan'"),
        (LONG, "gate-b", "gate-a", "gateway, engine or agent name used twice: gate-a"),
        (LONG, "gate-b", "d1", "gateway, engine or agent name used twice: d1"),
        (LONG, "gate-b", "plain-engine", "'plain-engine' names a process"),
        (LONG, "name: west-2", "name: west-1", "machine name used twice: west-1"),
        (LONG, "name: west-2", "name: d1", "machine, cluster, engine or agent name used twice: d1"),
        (LONG, "name: west-2", "name: east", "machine, cluster, engine or agent name used twice"),
        (LONG, "[2001:db8::5]:7000", "[::]:7000", "agent 'aw1': advertise '[::]:7000' cannot be"),
        (LONG, "[2001:db8::5]:7000", "[::0]:7000", "agent 'aw1': advertise '[::0]:7000' cannot be"),
        (LONG, "203.0.113.5:7001", "203.0.113.5", "agent 'aw1': admin_advertise: '203.0.113.5' is"),
        (LONG, "rate: 10 Gbit/s", "rate: 0 Gbit/s", "cluster 'west': rate must be above zero"),
        (LONG, "connections: 4", "connections: 129", "cluster 'west': lan: connections 129"),
        (LONG, "rate: 1 Gbit/s}", "connections: 1}", "connections 1 are too few for its 2 pairs"),
        (LONG, "rate: 1 Gbit/s}", "via: 'g:1'}", "write one for each: via: {aw1: HOST:PORT, aw2:"),
        (LONG, "rate: 1 Gbit/s}", "via: {ae1: 'g:1'}}", "via: no agent 'ae1' decodes there"),
        (LONG, "rate: 1 Gbit/s}", "via: {aw1: 'g'}}", "via: aw1: 'g' is not host:port"),
    ],
)  # fmt: skip
def test_mistakes(text: str, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parsed(text, (old, new))
    assert str(raised.value).startswith("file.yaml: ")
    assert said in str(raised.value)
