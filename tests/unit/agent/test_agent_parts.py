"""The agent's small parts: arena, registry, transfer table, settings."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from prfaas.agent.arena import Arena
from prfaas.agent.registry import EngineRegistry
from prfaas.agent.settings import settings_for
from prfaas.agent.table import KEEP_S, Received, Sent, TransferTable
from prfaas.cli.main import main
from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError, EngineError
from prfaas.link.tcp.config import Plaintext
from prfaas.testing.mock_engine_rank import mock_layout
from prfaas.tls.files import TlsFiles

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
    assert (settings.export_slots, settings.engines) == (512, frozenset({"p0"}))
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


def test_arena_has_no_name_and_all_of_its_pages(tmp_path: Path) -> None:
    arena = Arena("x", 1 << 20, directory=tmp_path)
    assert os.listdir(tmp_path) == []
    assert os.fstat(arena.fd).st_blocks * 512 == 1 << 20
    arena.view[:3] = b"abc"
    arena.copy(0, 10, 3)
    assert os.pread(arena.fd, 3, 10) == b"abc"
    arena.close()


def test_arena_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="make the agent's arena smaller"):
        Arena("x", 1 << 50)
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("prfaas-x-")]


def test_registry() -> None:
    registry = EngineRegistry(frozenset({"a", "b"}))
    registry.register(1, "a", 10, mock_layout())
    with pytest.raises(EngineError, match="connected already, with pid 10"):
        registry.register(2, "a", 11, mock_layout())
    other_rank = msgspec.structs.replace(mock_layout("float16"), tp_rank=1, tp_size=2)
    registry.register(3, "b", 12, other_rank)
    registry.check_offer(0, mock_layout().fingerprint())
    registry.check_offer(7, "any rank that is not here may still come")
    with pytest.raises(EngineError, match="layout 01234567 of the sender"):
        registry.check_offer(0, "0123456789")
    registry.remove(1)
    registry.check_offer(0, "0123456789")


def test_table_joins_ranks() -> None:
    table = TransferTable()
    for rank in (0, 1):
        table.add_received(
            "x", rank, Received(100, "complete", None, 100, 5.0 + rank, 7.0 + rank), now=0
        )
    view, over = table.view("x", ranks=2)
    assert over
    assert (view.state, view.bytes_stored) == ("complete", 200)
    assert (view.first_byte_at, view.completed_at) == (5.0, 8.0)
    assert table.view("x", ranks=3)[0].state == "receiving"
    table.add_received("x", 2, Received(100, "failed", "lost"), now=0)
    view, over = table.view("x", ranks=4)
    assert (view.state, view.reason, view.completed_at, over) == ("failed", "lost", None, True)


def test_table_of_a_sender() -> None:
    table, acknowledged = TransferTable(), [40]
    table.add_sent("x", 0, sent := Sent(100, lambda: acknowledged[0]), now=0)
    view, over = table.view("x", ranks=1)
    assert not over
    assert view.state == "unknown"
    assert view.sent is not None
    assert (view.sent.state, view.sent.bytes_acknowledged) == ("sending", 40)
    sent.state, sent.completed_at, acknowledged[0] = "complete", 9.0, 100
    view, over = table.view("x", ranks=1)
    assert over
    assert view.sent is not None
    assert (view.sent.bytes_acknowledged, view.sent.completed_at) == (100, 9.0)


def test_an_end_keeps_a_record_but_brings_none_back() -> None:
    table = TransferTable()
    table.add_sent("x", 0, sent := Sent(1, lambda: 0), now=0.0)
    sent.state = "complete"
    table.touch("x", now=KEEP_S)
    table.forget_old(now=2 * KEEP_S)
    assert len(table) == 1
    table.forget_old(now=2 * KEEP_S + 1.0)
    table.touch("x", now=2 * KEEP_S + 2.0)
    assert len(table) == 0


def test_table_forgets_what_has_long_been_over() -> None:
    table = TransferTable()
    table.add_received("open", 0, Received(1), now=0.0)
    table.add_received("over", 0, Received(1, "failed"), now=1.0)
    table.cancel("never", now=2.0)
    table.add_received("late", 0, Received(1, "failed"), now=KEEP_S)
    table.forget_old(now=KEEP_S)
    assert len(table) == 4
    table.forget_old(now=KEEP_S + 3.0)
    assert len(table) == 2
    assert table.received("open", 0) is not None
    assert table.received("late", 0) is not None
    assert not table.is_cancelled("never")
