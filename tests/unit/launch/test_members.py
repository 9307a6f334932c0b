"""The file follows the names: a mock of DNS says which pods there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.render.examples import rendered

from prfaas.core.deployment import load_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.members import Members, resolve


class MockDns:
    """Names that have an address; ``down``: it answers nobody."""

    def __init__(self, *pods: str) -> None:
        self.pods = set(pods)
        self.gateways = ["10.0.0.7"]
        self.down = False
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[str] | None:
        self.asked.append(host)
        if self.down:
            return None
        if host.startswith("gateways."):
            return self.gateways
        return ["10.0.0.1"] if host.partition(".")[0] in self.pods else []


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template.json"
    path.write_text(rendered("small")["west/template.json"])
    return path


def _say_otherwise(template: Path, old: str, new: str) -> None:
    template.write_text(template.read_text().replace(old, new))


async def test_the_file_is_written_when_pods_come_and_go(template: Path, tmp_path: Path) -> None:
    dns, out, now = MockDns("east-0", "west-0"), tmp_path / "deployment.json", 0.0
    members = Members(template, out, resolver=dns, clock=lambda: now)

    assert await members.look()
    assert [m.name for m in load_deployment(out).machines] == ["east-0", "west-0"]
    assert not await members.look()

    dns.pods.add("east-1")
    assert await members.look()
    assert [m.name for m in load_deployment(out).machines] == ["east-0", "east-1", "west-0"]

    dns.pods.remove("east-0")
    dns.gateways = ["10.0.0.7", "10.0.0.8"]
    now = 61.0
    assert await members.look()
    assert [m.name for m in load_deployment(out).machines] == ["east-1", "west-0"]
    assert len(load_deployment(out).gateways) == 2

    dns.down, now = True, 1000.0
    assert not await members.look()


async def test_a_gateway_is_there_before_it_has_a_name(template: Path, tmp_path: Path) -> None:
    dns, out = MockDns("west-0"), tmp_path / "deployment.json"
    dns.gateways = []
    await Members(template, out, resolver=dns, own_gateway="10.0.0.9").look()
    assert [g.name for g in load_deployment(out).gateways] == ["gateway-10-0-0-9"]


async def test_a_pod_of_ipv6_has_its_agent_listen_there(template: Path, tmp_path: Path) -> None:
    out = tmp_path / "deployment.json"
    dns = MockDns("west-0")
    await Members(template, out, resolver=dns, own_pod="west-0", own_address="2001:db8::5").look()
    (agent,) = load_deployment(out).cluster("west").agents
    assert (agent.listen, agent.admin) == ("[::]:7400", "[::]:7401")


async def test_a_new_template_takes_no_pod_out_while_nobody_can_say(
    template: Path, tmp_path: Path
) -> None:
    dns, out = MockDns("east-0", "east-1", "west-0"), tmp_path / "deployment.json"
    members = Members(template, out, resolver=dns)
    await members.look()
    _say_otherwise(template, '"200 Mbit/s"', '"300 Mbit/s"')
    dns.down = True
    assert await members.look()
    found = load_deployment(out)
    assert found.links[0].rate == "300 Mbit/s"
    assert [m.name for m in found.machines] == ["east-0", "east-1", "west-0"]


async def test_where_there_are_many_pods_each_asks_less_often(
    template: Path, tmp_path: Path
) -> None:
    """Each asks for the names of all: together they would ask by the square."""
    dns = MockDns("west-0")
    members = Members(template, tmp_path / "o", resolver=dns)
    await members.look()
    assert members.pause_s(2.0) == 2.0
    dns.pods.add("east-0")
    _say_otherwise(template, '"replicas": 1', '"replicas": 200')
    await members.look()
    assert members.pause_s(2.0) == pytest.approx(408 / 25)


async def test_a_bad_template_at_the_start_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(ConfigError, match="no template"):
        await Members(tmp_path / "t.json", tmp_path / "o", resolver=MockDns()).run(period_s=1)


async def test_a_name_that_nobody_has_is_no_member() -> None:
    assert not await resolve("no-such-host.invalid")
