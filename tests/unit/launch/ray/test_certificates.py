"""Certificates that are made for a deployment on Ray travel with each process's actor."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.deployment import TlsConfig, load_deployment
from prfaas.launch.ray.certificates import localized, with_certificates
from prfaas.launch.start import embedded_default


def test_each_process_gets_its_own_and_finds_them_in_its_folder(tmp_path: Path) -> None:
    made, there = tmp_path / "made", tmp_path / "there"
    secure, files = with_certificates(load_deployment(embedded_default()), made)
    assert str(tmp_path) not in msgspec.json.encode(secure).decode()
    own = {"ca.pem", "cache.key", "crl.pem", "west-agent.pem", "west-agent-key.pem"}
    assert files["west-agent"].keys() == own
    assert "gateway-key.pem" in files["gateway"]
    assert not any("ca-key" in name for texts in files.values() for name in texts)
    local = localized(secure, there)
    agent = next(a for a in local.agents if a.name == "west-agent")
    assert agent.tls is not None
    assert agent.tls.cert == str(there / "west-agent.pem")
    assert agent.tls.crl == str(there / "crl.pem")
    assert agent.tls.cache_key_file == str(there / "cache.key")
    assert files["west-agent"]["cache.key"] == (made / "cache.key").read_text()
    assert local.gateway.agent_tls is not None
    assert local.gateway.agent_tls.key == str(there / "gateway-key.pem")


def test_certificates_of_the_file_stay_each_nodes(tmp_path: Path) -> None:
    given = TlsConfig(ca="/etc/prfaas/ca.pem", cert="/etc/prfaas/a.pem", key="/etc/prfaas/k.pem")
    deployment = load_deployment(embedded_default()).with_machines(
        lambda m: msgspec.structs.replace(m, agent=msgspec.structs.replace(m.agent, tls=given))
    )
    secure, files = with_certificates(deployment, tmp_path / "made")
    assert {a.tls for a in localized(secure, tmp_path).agents} == {given}
    assert not any(files.values())
