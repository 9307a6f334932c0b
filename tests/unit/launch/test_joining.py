"""What another file changes of a deployment that runs, and what it leaves where it is."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.launch.addresses import resolve
from prfaas.launch.certificates import secured
from prfaas.launch.gpus import placed
from prfaas.launch.joining import joined

MODEL = {"path": "some/model"}


def file(*engines: str, machines: tuple[str, ...] = (), **more: Any) -> Deployment:
    """A PD cluster of one machine with decode engines of these names, and further machines."""
    every = [("first", engines), *((name, (f"{name}-d",)) for name in machines)]
    cluster = {
        "name": "west",
        "kind": "pd",
        "machines": [
            {
                "name": name,
                "agent": {"name": f"{name}-agent", "arena": "64 MiB"},
                "engines": [{"name": e, "role": "decode", **more} for e in named],
            }
            for name, named in every
        ],
    }
    text = {"clusters": [cluster], "model": MODEL, "gateway": {"listen": "127.0.0.1:0"}}
    return parse_deployment(msgspec.json.encode(text), source="test")


def started(deployment: Deployment, run: Path) -> Deployment:
    return secured(resolve(deployment, sockets=run), run / "certs")


def take(new: Deployment, running: Deployment, run: Path) -> Deployment:
    return joined(new, running, gpus=(), sockets=run, certs=run / "certs")


def test_what_stays_keeps_its_addresses_though_their_ports_are_taken(tmp_path: Path) -> None:
    running = started(file("a", "b"), tmp_path)
    taken = [running.gateway.listen, running.agents[0].listen, running.agents[0].admin]
    held = [socket.create_server(("127.0.0.1", int(t.rpartition(":")[2]))) for t in taken]
    try:
        new = take(file("a", "c"), running, tmp_path)
    finally:
        for one in held:
            one.close()
    before, after = running.engines, new.engines
    assert [engine.name for engine in after] == ["a", "c"]
    assert after[0] == before[0]
    assert after[1].url not in {engine.url for engine in before}
    assert new.agents == running.agents
    assert new.gateways == running.gateways


def test_an_agent_on_every_interface_is_reached_where_it_was(tmp_path: Path) -> None:
    def everywhere(deployment: Deployment) -> Deployment:
        return deployment.with_machines(
            lambda m: msgspec.structs.replace(
                m, agent=msgspec.structs.replace(m.agent, listen="0.0.0.0:0", admin="0.0.0.0:0")
            )
        )

    running = started(everywhere(file("a")), tmp_path)
    (agent,) = running.agents
    assert agent.admin_address.startswith("127.0.0.1:")
    assert take(everywhere(file("a", "b")), running, tmp_path).agents == (agent,)


def test_a_new_machine_has_a_certificate_of_the_same_authority(tmp_path: Path) -> None:
    running = started(file("a"), tmp_path)
    new = take(file("a", machines=("second",)), running, tmp_path)
    first, second = new.agents
    assert first == running.agents[0]
    assert first.tls is not None
    assert second.tls is not None
    assert second.tls.ca == first.tls.ca
    assert second.tls.cert != first.tls.cert
    assert Path(second.tls.cert).is_file()
    again = take(file("a", machines=("second",)), new, tmp_path)
    assert again == new


def test_gpus_of_what_stays_are_taken(tmp_path: Path) -> None:
    def gpus(deployment: Deployment) -> list[str | None]:
        return [engine.gpus for engine in deployment.engines]

    running = resolve(placed(file("a"), ("0", "1")), sockets=tmp_path)
    assert gpus(running) == ["0"]
    new = joined(file("a", "b"), running, gpus=("0", "1"), sockets=tmp_path, certs=tmp_path)
    assert gpus(new) == ["0", "1"]


def test_what_only_a_start_can_change_is_refused(tmp_path: Path) -> None:
    running = started(file("a"), tmp_path)
    with pytest.raises(ConfigError, match="engine 'a' has changed: give what it is to be another"):
        take(file("a", args=["--enforce-eager"]), running, tmp_path)
    other = msgspec.structs.replace(file("a").model, block_tokens=128)
    with pytest.raises(ConfigError, match="the model has changed"):
        take(msgspec.structs.replace(file("a"), model=other), running, tmp_path)
    asking = running.with_gateways(lambda g: msgspec.structs.replace(g, api_keys=("key",)))
    with pytest.raises(ConfigError, match="no keys of clients any more"):
        take(file("a"), asking, tmp_path)
