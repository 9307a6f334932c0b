"""A process's addresses on its node: the file's where it names one, else the node's."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from msgspec.structs import replace

from prfaas.core.deployment import Deployment, check_borders, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import claimed
from prfaas.launch.certificates import secured
from prfaas.launch.ray.whereabouts import sockets, whereabouts

NODE = "127.0.0.7"
FILE = """
clusters:
  - name: west
    kind: pd
    engines: [{{name: d, role: decode{engine}}}]
    agent: {{name: a, arena: 64 MiB{agent}}}
gateway: {{{gateway}}}
"""


def _file(agent: str = "", engine: str = "", gateway: str = "") -> Deployment:
    text = FILE.format(agent=agent, engine=engine, gateway=gateway)
    return parse_deployment(text, source="test")


def _found(
    deployment: Deployment, name: str, kind: str, before: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    return whereabouts(
        deployment, name, kind, host=NODE, folder=Path("/tmp/p"), before=before  # type: ignore[arg-type]
    )  # fmt: skip


def test_an_agent_follows_its_node_and_keeps_its_ports_there() -> None:
    first = _found(_file(), "a", "agent")
    assert first["listen"].startswith(f"{NODE}:")
    assert first["admin"].startswith(f"{NODE}:")
    assert first["socket"] == "/tmp/p/agent-0.sock"
    assert _found(_file(), "a", "agent", first) == first


def test_a_port_that_is_taken_meanwhile_is_another() -> None:
    (taken,) = claimed(f"{NODE}:0", who="test")
    with socket.create_server((NODE, int(taken.rpartition(":")[2]))):
        found = _found(_file(), "a", "agent", {"listen": taken})
    assert found["listen"] != taken


def test_every_interface_is_told_as_the_nodes_address() -> None:
    (free,) = claimed("0.0.0.0:0", who="test")
    port = free.rpartition(":")[2]
    found = _found(_file(f', listen: "0.0.0.0:{port}"'), "a", "agent")
    assert found["listen"] == free
    assert found["advertise"] == f"{NODE}:{port}"


def test_what_the_file_says_of_others_stays() -> None:
    (free,) = claimed("0.0.0.0:0", who="test")
    said = f', listen: "{free}", advertise: "192.0.2.1:7400"'
    assert "advertise" not in _found(_file(said), "a", "agent")
    said = f', listen: "{free}", admin: "{free}", admin_advertise: "192.0.2.1:7400"'
    assert not {"advertise", "admin_advertise"} & _found(_file(said), "a", "agent").keys()


def test_an_engine_behind_an_agent_with_tls_is_on_the_loopback(tmp_path: Path) -> None:
    secure = secured(_file(), tmp_path)
    found = _found(secure, "d", "engine")
    assert found["url"].startswith("http://127.0.0.1:")
    assert found["kv_events"] == "ipc:///tmp/p/engine-0.events"
    assert [p.name for p in sockets(found)] == ["engine-0.events", "engine-0.replay"]


def test_in_plaintext_others_reach_the_engine_at_its_node() -> None:
    plain = _file(", plaintext: true")
    found = _found(plain, "d", "engine")
    assert found["url"].startswith(f"http://{NODE}:")
    assert found["kv_events"].startswith(f"tcp://{NODE}:")
    again = _found(plain, "d", "engine", found)
    assert again["url"] == found["url"]


def test_an_engines_url_is_the_files_and_it_publishes_all_the_same(tmp_path: Path) -> None:
    said = ', url: "http://127.0.0.1:8001"'
    assert _found(secured(_file(engine=said), tmp_path), "d", "engine") == {
        "kv_events": "ipc:///tmp/p/engine-0.events",
        "kv_events_replay": "ipc:///tmp/p/engine-0.replay",
    }
    open_one = _found(_file(", plaintext: true", engine=said), "d", "engine")
    assert open_one["kv_events"].startswith(f"tcp://{NODE}:")
    told = said + ', args: ["--kv-events-config={}"]'
    assert _found(_file(engine=told), "d", "engine") == {}


def test_a_gateway_on_the_loopback_stays_there() -> None:
    assert _found(_file(gateway='listen: "127.0.0.1:0"'), "gateway", "gateway")[
        "listen"
    ].startswith("127.0.0.1:")
    (free,) = claimed("0.0.0.0:0", who="test")
    port = free.rpartition(":")[2]
    found = _found(_file(gateway=f'listen: "{free}", admin: "0.0.0.0:0"'), "gateway", "gateway")
    assert (found["listen"], found["advertise"]) == (free, f"{NODE}:{port}")
    assert found["admin"].startswith(f"{NODE}:")


def test_a_port_of_the_file_that_is_taken_is_an_error() -> None:
    with socket.create_server((NODE, 0)) as server:
        taken = f"{NODE}:{server.getsockname()[1]}"
        with pytest.raises(ConfigError, match="cannot listen"):
            _found(_file(gateway=f'listen: "{taken}"'), "gateway", "gateway")


def test_what_is_told_crosses_no_border_in_plaintext(tmp_path: Path) -> None:
    secure = secured(_file(), tmp_path)
    agent, engine = _found(secure, "a", "agent"), _found(secure, "d", "engine")
    whole = secure.with_machines(
        lambda m: replace(
            m, agent=replace(m.agent, **agent), engines=(replace(m.engines[0], **engine),)
        )
    )
    check_borders(whole)
