"""What a deployment says to one agent, and how mistakes in it are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.agent.settings import by_descriptors, settings_for
from prfaas.cli.main import main
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.deployment.gateways import MOST_OUTPUT_S
from prfaas.core.errors import ConfigError
from prfaas.link.tcp.config import Plaintext, TcpLinkConfig, TlsFiles

DEPLOYMENT = """
clusters:
- name: east
  kind: prfaas
  engines: [{name: p0, role: prefill}]
  agent: {name: ae, listen: "127.0.0.1:7401", socket: /run/e, plaintext: true, dscp: 10}
- name: west
  kind: pd
  engines: [{name: d0, role: decode}]
  agent: {name: aw, listen: "127.0.0.1:7402", socket: /run/w, tls: {ca: a, cert: b, key: c}}
- name: south
  kind: pd
  engines: [{name: s0, role: decode}]
  agent: {name: as}
links: [{from: east, to: west, rate: 200 Mbit/s, connections: 2}]
"""


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    return parse_deployment(DEPLOYMENT, source="test")


def test_settings_of_a_sender(deployment: Deployment) -> None:
    settings = settings_for(deployment, "ae")
    assert (settings.export_slots, settings.engines) == (256, frozenset({"p0"}))
    assert settings.cache_slots == 256
    assert settings.link is not None
    assert (settings.link.security, settings.link.dscp) == (Plaintext(), 10)
    peer = settings.link.peers["aw"]
    assert (peer.address, peer.rate_bytes_per_s, peer.connections) == ("127.0.0.1:7402", 25e6, 2)
    assert settings.link.accept_from == frozenset()


def test_settings_of_a_receiver(deployment: Deployment) -> None:
    settings = settings_for(deployment, "aw", socket=Path("/elsewhere"))
    assert (settings.export_slots, settings.socket) == (128, Path("/elsewhere"))
    assert settings.link is not None
    assert settings.link.security == TlsFiles(Path("a"), Path("b"), Path("c"))
    assert (settings.link.peers, settings.link.accept_from) == ({}, frozenset({"ae"}))


def test_an_agent_takes_nothing_that_lasts_longer_than_the_files_longest_request() -> None:
    for deadline, seconds in (("10 min", 600), ("2 h", 7200)):
        text = f"{DEPLOYMENT}gateway: {{request_deadline: {deadline}}}"
        found = settings_for(parse_deployment(text, source="test"), "aw", socket=Path("/s"))
        assert found.longest_deadline_s == seconds + MOST_OUTPUT_S


def test_settings_that_cannot_work(deployment: Deployment) -> None:
    with pytest.raises(ConfigError, match="agent 'ae': dscp 64 is not in"):
        parse_deployment(DEPLOYMENT.replace("dscp: 10", "dscp: 64"), source="test")
    with pytest.raises(ConfigError, match="no agent 'x' in the deployment; known: ae, as, aw"):
        settings_for(deployment, "x")
    with pytest.raises(ConfigError, match="where engines connect"):
        settings_for(deployment, "as")
    assert settings_for(deployment, "as", socket=Path("s")).link is None
    no_port = parse_deployment(DEPLOYMENT.replace("7402", "0"), source="test")
    with pytest.raises(ConfigError, match="needs a fixed port"):
        settings_for(no_port, "ae")
    open_line = parse_deployment(DEPLOYMENT.replace(", plaintext: true", ""), source="test")
    with pytest.raises(ConfigError, match="prfaas certs"):
        settings_for(open_line, "ae")


def test_the_verb_explains_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "d.yaml"
    file.write_text(DEPLOYMENT.replace("prefill}", "prefil}"))
    assert main(["agent", str(file), "--name", "ae"]) == 2
    assert "prefil" in capsys.readouterr().err
    file.write_text(DEPLOYMENT)
    assert main(["agent", str(file), "--name", "nobody"]) == 2
    assert "no agent 'nobody'" in capsys.readouterr().err


def test_a_machine_of_prefill_engines_in_a_pd_cluster_can_receive_too() -> None:
    text = """
clusters:
  - name: west
    kind: pd
    machines:
      - name: m1
        agent: {name: a1, arena: 512 MiB, socket: /s, plaintext: true, listen: "127.0.0.1:7000"}
        engines: [{name: p1, role: prefill}]
      - name: m2
        agent: {name: a2, arena: 512 MiB, socket: /t, plaintext: true, listen: "127.0.0.1:7001"}
        engines: [{name: d1, role: decode}]
"""
    found = parse_deployment(text, source="test")
    assert [settings_for(found, name).export_slots for name in ("a1", "a2")] == [256, 128]


@pytest.mark.parametrize(("machines", "sites", "room"), [(1, 1, 256), (300, 1, 600), (1, 5, 640)])
def test_every_machine_that_sends_here_finds_room(machines: int, sites: int, room: int) -> None:
    """A link of its own chooses up to 64 connections; of a large site each machine has one."""
    clusters, links = [], []
    for site in range(sites):
        each = ", ".join(
            f"{{name: m{site}-{n}, agent: {{name: a{site}-{n}, plaintext: true}},"
            f" engines: [{{name: p{site}-{n}, role: prefill}}]}}"
            for n in range(machines)
        )
        clusters.append(f"- {{name: s{site}, kind: prfaas, machines: [{each}]}}")
        links.append(f"{{from: s{site}, to: west}}")
    text = "clusters:\n" + "\n".join(clusters)
    text += """
- name: west
  kind: pd
  engines: [{name: d0, role: decode}]
  agent: {name: aw, listen: "127.0.0.1:7402", socket: /run/w, plaintext: true}
"""
    deployment = parse_deployment(text + f"links: [{', '.join(links)}]", source="test")
    link = settings_for(deployment, "aw").link
    assert link is not None
    assert link.max_incoming_connections == room


def test_strangers_at_the_links_door_have_a_part_of_the_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = TcpLinkConfig(name="a", security=Plaintext())
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
    assert by_descriptors(link).max_pending_connections == 128
    monkeypatch.setattr("resource.getrlimit", lambda _: (1 << 20, 1 << 20))
    assert by_descriptors(link) == link
