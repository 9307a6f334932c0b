"""Two processes cannot have one address."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from prfaas.core.deployment import parse_deployment
from prfaas.core.errors import ConfigError

FILE = """
clusters:
- name: east
  kind: prfaas
  engines: [{name: p0, role: prefill, url: "http://h:1"}]
  agent: {name: a-east, listen: "h:7400", admin: "h:7401", socket: /run/e, plaintext: true}
- name: west
  kind: pd
  engines: [{name: d0, role: decode, url: "http://h:2"}]
  agent: {name: a-west, listen: "h:7500", admin: "h:7501", socket: /run/w, plaintext: true}
links: [{from: east, to: west}]
gateway: {listen: "h:8000"}
"""


def test_addresses_of_their_own_are_taken() -> None:
    parse_deployment(FILE, source="test")


@pytest.mark.parametrize(
    ("what", "instead", "error"),
    [
        ("http://h:2", "http://h:1", "h:1 is said to be of engine 'p0' and of engine 'd0'"),
        ("http://h:2", "http://h:7400", r"agent 'a-east' \(listen\) and of engine 'd0'"),
        ("h:7500", "h:7400", r"h:7400 is said to be of agent 'a-east' \(listen\)"),
        ("h:7501", "h:7401", r"h:7401 is said to be of agent 'a-east' \(admin\)"),
        ("h:7501", "h:7400", r"h:7400 is said to be of agent 'a-east' \(listen\)"),
        ("h:7501", "0.0.0.0:7500", "'h:7500' and admin '0.0.0.0:7500' are one port"),
        ("h:7501", "H:7500", "'h:7500' and admin 'H:7500' are one port"),
        ("/run/w", "/run/e", "/run/e on h is said to be of agent 'a-east'"),
        ("h:8000", "h:7501", "gateway 'gateway'"),
        ("h:8000", "h:2", "gateway 'gateway'"),
    ],
)
def test_one_address_for_two_is_refused(what: str, instead: str, error: str) -> None:
    assert what in FILE
    with pytest.raises(ConfigError, match=error):
        parse_deployment(FILE.replace(what, instead), source="test")


def test_an_agent_with_one_port_is_one_process_there() -> None:
    one_port = FILE.replace("h:7501", "h:7500")
    assert parse_deployment(one_port, source="test").agents[1].has_one_port
    assert not parse_deployment(FILE, source="test").agents[1].has_one_port
    with pytest.raises(ConfigError, match="h:7500 is said to be of agent 'a-west' and of engine"):
        parse_deployment(one_port.replace("http://h:2", "http://h:7500"), source="test")


@pytest.mark.parametrize(
    ("listen", "admin", "is_one"),
    [
        ("localhost:7500", "127.0.0.1:7500", True),
        ("[::1]:7500", "localhost:7500", True),
        ("[::1]:7500", "[0:0::1]:7500", True),
        ("127.0.0.1:7500", "127.0.0.2:7500", False),
        ("h:7500", "w:7500", False),
        ("localhost:7500", "h:7500", False),
    ],
)
def test_one_host_may_be_written_in_several_ways(listen: str, admin: str, is_one: bool) -> None:
    file = FILE.replace("h:7500", listen).replace("h:7501", admin)
    with pytest.raises(ConfigError, match="are one port") if is_one else nullcontext():
        parse_deployment(file, source="test")


@pytest.mark.parametrize("key", ["advertise", "admin_advertise"])
def test_where_one_port_is_reached_is_said_once(key: str) -> None:
    everywhere = 'listen: "0.0.0.0:7500", admin: "0.0.0.0:7500"'
    told = FILE.replace('listen: "h:7500", admin: "h:7501"', f'{everywhere}, {key}: "h:7"')
    agent = parse_deployment(told, source="test").agents[1]
    assert (agent.link_address, agent.admin_address) == ("h:7", "h:7")
    both = told.replace(f'{key}: "h:7"', 'advertise: "h:7", admin_advertise: "h:8"')
    agent = parse_deployment(both, source="test").agents[1]
    assert (agent.link_address, agent.admin_address) == ("h:7", "h:8")
    two = told.replace('admin: "0.0.0.0:7500"', 'admin: "h:7501"')
    agent = parse_deployment(two, source="test").agents[1]
    assert "h:7" in (agent.link_address, agent.admin_address)
    assert agent.link_address != agent.admin_address


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ('listen: "h:7500"', 'listen: "0.0.0.0:7400", advertise: "w:7400"'),
        ('admin: "h:7501"', 'admin: "0.0.0.0:7401", admin_advertise: "w:7401"'),
        ('admin: "h:7501", socket: /run/w', 'admin: "w:7501", socket: /run/e'),
        ('listen: "h:8000"', 'listen: "0.0.0.0:7400"'),
        ("h:7501", "h:7500"),
    ],
)
def test_one_port_or_path_on_two_machines_is_two(what: str, instead: str) -> None:
    assert what in FILE
    parse_deployment(FILE.replace(what, instead), source="test")


def test_loopback_is_a_machines_own() -> None:
    both = FILE.replace("http://h:1", "http://127.0.0.1:1").replace(
        "http://h:2", "http://127.0.0.1:1"
    )
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:1 on h is said to be of engine 'p0'"):
        parse_deployment(both, source="test")
    parse_deployment(both.replace('admin: "h:7501"', 'admin: "w:7501"'), source="test")
