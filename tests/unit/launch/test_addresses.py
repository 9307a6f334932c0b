"""Every address a deployment leaves open is filled in, and what cannot be had is said."""

import socket
from pathlib import Path

import msgspec
import pytest

from prfaas.core.addresses import parse_address
from prfaas.core.deployment import AgentConfig, Deployment, MachineConfig, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import free_address, publishing, resolve
from prfaas.launch.supervisor import local_engines

TEXT = """
clusters:
  - name: east
    kind: prfaas
    engines: [{name: e1, role: prefill}]
    agent: {name: a1, plaintext: true}
  - name: west
    kind: pd
    engines:
      - {name: w1, role: prefill}
      - {name: w2, role: decode, url: "http://10.0.0.7:8001", cpus: "5"}
    agent: {name: a2, plaintext: true}
links: [{from: east, to: west, rate: 1 Gbit/s}]
gateway: {listen: "127.0.0.1:0"}
model: {path: some/model}
"""


def _deployment(text: str = TEXT) -> Deployment:
    return parse_deployment(text, source="test")


def test_all_open_addresses_are_filled_in_and_differ() -> None:
    resolved = resolve(_deployment(), sockets=Path("/tmp/s"))
    agents = resolved.agents
    engines = resolved.engines
    every = [resolved.gateway.listen, *(a.listen for a in agents), *(a.admin for a in agents)]
    every += [str(e.url).removeprefix("http://") for e in engines]
    assert len(set(every)) == len(every)
    assert not any(address.endswith(":0") for address in every)
    assert [a.socket for a in agents] == ["/tmp/s/a1.sock", "/tmp/s/a2.sock"]
    assert engines[0].kv_events == "ipc:///tmp/s/e1.events"
    assert resolved.model.served_name == "some/model"


def test_what_the_file_gives_an_address_is_left_as_it_is() -> None:
    deployment = _deployment()
    assert local_engines(deployment) == {"e1", "w1"}
    resolved = resolve(deployment, sockets=Path("/tmp/s"))
    assert resolved.clusters[1].engines[1] == deployment.clusters[1].engines[1]


def _with_one_port(**more: str) -> AgentConfig:
    deployment = _deployment()

    def one_port(machine: MachineConfig) -> MachineConfig:
        agent = msgspec.structs.replace(machine.agent, **more)
        return msgspec.structs.replace(machine, agent=agent)

    first = deployment.machines[0]
    made = deployment.with_machines(lambda m: one_port(m) if m is first else m)
    return resolve(made, sockets=Path("/tmp/s")).machines[0].agent


def test_an_agent_with_one_port_claims_it_once() -> None:
    at = free_address()
    agent = _with_one_port(listen=at, admin=at)
    assert (agent.listen, agent.admin, agent.has_one_port) == (at, at, True)


@pytest.mark.parametrize("said", ["advertise", "admin_advertise"])
def test_where_one_port_on_every_interface_is_reached_is_said_once(said: str) -> None:
    port = parse_address(free_address()).port
    at, reached = f"0.0.0.0:{port}", f"192.0.2.1:{port}"
    agent = _with_one_port(listen=at, admin=at, **{said: reached})
    assert (agent.link_address, agent.admin_address) == (reached, reached)


def test_a_free_address_is_never_given_twice() -> None:
    assert len({free_address() for _ in range(200)}) == 200


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        deployment = _deployment(TEXT.replace("127.0.0.1:0", address))
        with pytest.raises(ConfigError, match=f"gateway: cannot listen on {address}: .*in use"):
            resolve(deployment, sockets=Path("/tmp/s"))


def test_an_ipv6_address_keeps_its_brackets() -> None:
    text = TEXT.replace("127.0.0.1:0", "[::1]:0")
    resolved = resolve(_deployment(text), sockets=Path("/tmp/s"))
    address = parse_address(resolved.gateway.listen)
    assert address.host == "::1"
    assert address.port > 0


def test_an_address_without_a_port_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'localhost' is not host:port"):
        resolve(
            _deployment(TEXT.replace("127.0.0.1:0", "localhost")),
            sockets=Path("/tmp/s"),
        )


def test_a_model_directory_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="model '/no/such/model': no directory with a config"):
        resolve(
            _deployment(TEXT.replace("some/model", "/no/such/model")),
            sockets=Path("/tmp/s"),
        )


def test_an_unknown_tiny_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no tiny model 'mamba'; known: gdn"):
        resolve(
            _deployment(TEXT.replace("some/model", "tiny:mamba")),
            sockets=Path("/tmp/s"),
        )


@pytest.mark.parametrize(
    ("url", "security", "more", "events"),
    [
        ("http://127.0.0.1:8001", "plaintext: true", "", "ipc:///run/prfaas/e.events"),
        ("http://10.0.0.7:8001", "plaintext: true", "", None),
        (
            "http://127.0.0.1:8001",
            "tls: {ca: a, cert: b, key: c}",
            "",
            "ipc:///run/prfaas/e.events",
        ),
        ("http://127.0.0.1:8001", "plaintext: true", 'kv_events: "tcp://*:1"', "tcp://*:1"),
        ("http://127.0.0.1:8001", "plaintext: true", 'args: ["--kv-events-config={}"]', None),
    ],
)
def test_an_engine_with_an_address_publishes_beside_its_agents_socket(
    url: str, security: str, more: str, events: str | None
) -> None:
    text = f"""
clusters:
  - name: west
    kind: pd
    agent: {{name: a, socket: /run/prfaas/agent.sock, {security}}}
    engines: [{{name: e, role: decode, url: "{url}", {more}}}]
gateway: {{agent_tls: {{ca: a, cert: b, key: c}}}}
"""
    deployment = _deployment(text)
    engine = publishing(deployment.engines[0], deployment.agents[0])
    assert engine.kv_events == events
