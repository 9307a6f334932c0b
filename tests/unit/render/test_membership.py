"""Pods that come and go are machines of the deployment, and a name that nobody knows takes none out
at once."""

from __future__ import annotations

import json

import msgspec
import pytest
from tests.unit.render.examples import rendered

from prfaas.core.errors import ConfigError
from prfaas.render.membership import Presence, Template, expand, parse_template


def template(name: str = "fleet") -> Template:
    return parse_template(rendered(name)["west/template.json"].encode(), source="here")


def found(presence: Presence, names: set[str]) -> dict[tuple[str, int], bool | None]:
    return {(g, n): f"{g}-{n}" in names for g, n, _ in presence.wanted()}


def test_a_pod_that_comes_is_a_machine() -> None:
    presence = Presence(template(), leave_after_s=60)
    presence.look(found(presence, {"east-0", "west-a-0", "west-b-0", "west-b-5"}), now=0)
    deployment = expand(template(), presence.members(), {})
    assert [m.name for m in deployment.machines] == ["east-0", "west-a-0", "west-b-0", "west-b-5"]
    machine = deployment.machines[-1]
    assert machine.agent.name == "west-b-5-agent"
    assert machine.agent.link_address == "west-b-5.west-b.kv.west.example.com:7400"
    assert machine.engines[0].url == "http://west-b-5.west-b.kv.west.example.com:8001"


def test_it_looks_beyond_the_highest_that_there_is() -> None:
    presence = Presence(template(), leave_after_s=60)
    presence.look(found(presence, {"east-4"}), now=0)
    assert ("east", 8) in {(g, n) for g, n, _ in presence.wanted()}


def test_a_pod_leaves_when_it_was_not_found_for_a_while() -> None:
    presence = Presence(template(), leave_after_s=60)
    presence.look(found(presence, {"east-0", "east-1"}), now=0)
    presence.look(found(presence, {"east-0"}), now=59)
    assert presence.members()["east"] == [0, 1]
    presence.look(found(presence, {"east-0"}), now=60)
    assert presence.members()["east"] == [0]


def test_where_nobody_can_say_all_stays() -> None:
    presence = Presence(template(), leave_after_s=60)
    presence.look(found(presence, {"east-0", "east-1"}), now=0)
    presence.look({(g, n): None for g, n, _ in presence.wanted()}, now=1000)
    assert presence.members()["east"] == [0, 1]


def test_what_was_found_is_known_by_the_next_template() -> None:
    """Else the fleet would shrink where it comes while the resolver cannot say."""
    before = Presence(template(), leave_after_s=60)
    before.look(found(before, {"east-0", "east-4"}), now=0)
    presence = Presence(template(), leave_after_s=60, before=before)
    presence.look({(g, n): None for g, n, _ in presence.wanted()}, now=1)
    assert presence.members()["east"] == [0, 4]
    smaller = msgspec.structs.replace(template(), groups=template().groups[1:])
    assert "east" not in Presence(smaller, leave_after_s=60, before=before).members()


def test_an_agent_listens_on_addresses_of_its_pods_kind() -> None:
    """A pod of a Kubernetes cluster of IPv6 has no address of IPv4."""
    members = Presence(template(), leave_after_s=60).members()
    for on_ipv6, host in ((True, "[::]"), (False, "0.0.0.0")):
        for agent in expand(template(), members, {}, on_ipv6=on_ipv6).agents:
            assert (agent.listen, agent.admin) == (f"{host}:7400", f"{host}:7401")


def test_a_pod_is_a_member_in_its_own_eyes_and_a_group_is_never_empty() -> None:
    presence = Presence(template(), leave_after_s=60, own="west-b-7")
    assert presence.members() == {"east": [0], "west-a": [0], "west-b": [7]}


def test_a_gateway_is_first_in_its_own_file_and_listens_everywhere() -> None:
    service = template().gateways[0].service
    members = Presence(template(), leave_after_s=60).members()
    gateways = {service: ["10.2.0.9", "10.2.0.3"]}
    own = expand(template(), members, gateways, own="10.2.0.9")
    assert [g.name for g in own.gateways] == ["gateway-10-2-0-9", "gateway-10-2-0-3"]
    assert own.gateway.listen == "0.0.0.0:8000"
    assert own.gateways[1].admin_url == "http://10.2.0.3:9090"
    six = expand(template(), members, {service: ["2001:db8::3"]})
    assert six.gateway.admin_url == "http://[2001:db8::3]:9090"


def test_a_template_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no template"):
        parse_template(json.dumps({"groups": 1}).encode(), source="here")
