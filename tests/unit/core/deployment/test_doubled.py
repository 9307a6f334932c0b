"""Two processes cannot have one address."""

from __future__ import annotations

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
