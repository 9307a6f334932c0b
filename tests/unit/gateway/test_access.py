"""What a gateway shows: warned of before it runs out, and when other files are taken."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.core.errors import ConfigError
from prfaas.gateway.access import Access, read_access
from prfaas.gateway.api_errors import RequestRefused
from prfaas.gateway.metrics import GatewayMetrics
from prfaas.testing.mock_deployment import until
from prfaas.tls.authority import create_authority, issue, revoke


def deployment(certs: Path) -> Deployment:
    own = f"ca: {certs}/ca.pem, cert: {certs}/g.pem, key: {certs}/g-key.pem, crl: {certs}/crl.pem"
    return parse_deployment(
        f"""
clusters:
- {{name: west, kind: pd, agent: {{name: a}}, engines: [{{name: d, role: decode}}]}}
gateway: {{agent_tls: {{{own}}}, tls: {{cert: {certs}/f.pem, key: {certs}/f-key.pem}}}}
""",
        source="test",
    )


async def test_certificates_that_run_out_are_warned_of_and_so_are_those_that_follow(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_authority(tmp_path)
    for name, days in (("g", 10), ("f", 300), ("b", 300)):
        issue(tmp_path, name, days=days)
    revoke(tmp_path, "b")
    found, metrics = deployment(tmp_path), GatewayMetrics()
    access = Access(found, metrics)
    told = {file for (file,) in metrics.certificate_expires._metrics}
    assert told == {"certificate", "agent_certificate", "agent_ca", "agent_crl"}
    warning = asyncio.create_task(access.warn())
    try:
        await until(lambda: "g.pem expires in 10 days" in caplog.text)
        assert "no list of revoked certificates" not in caplog.text
        assert "f.pem" not in caplog.text
        issue(tmp_path, "g", days=300)
        issue(tmp_path, "f", days=5)
        caplog.clear()
        access.take(read_access(found))
        await until(lambda: "f.pem expires in 5 days" in caplog.text)
        assert "g.pem" not in caplog.text
    finally:
        warning.cancel()
        with suppress(asyncio.CancelledError):
            await warning


async def test_what_runs_out_is_told_of_certificates_that_are_taken_while_their_file_is_refused(
    tmp_path: Path,
) -> None:
    """The page and the log went on with those of before."""
    create_authority(tmp_path)
    for name in ("g", "f", "b"):
        issue(tmp_path, name, days=300)
    revoke(tmp_path, "b")
    found, metrics = deployment(tmp_path), GatewayMetrics()
    access = Access(found, metrics)

    def days(file: str) -> int:
        at = metrics.registry.get_sample_value(
            "prfaas_gateway_certificate_expires_timestamp_seconds", {"file": file}
        )
        assert at is not None
        return round((at - time.time()) / 86400)

    issue(tmp_path, "g", days=3)
    issue(tmp_path, "f", days=5)
    warning = asyncio.create_task(access.warn())
    await until(lambda: not access._taken.is_set())
    access.take_files(found)
    assert (days("certificate"), days("agent_certificate"), days("agent_crl")) == (5, 3, 365)
    assert access._taken.is_set(), "it is warned of"
    issue(tmp_path, "f", days=20)
    (tmp_path / "f-key.pem").write_text("half of a k")
    access.take_files(found)
    assert days("certificate") == 5, "the one that is shown"
    warning.cancel()
    with suppress(asyncio.CancelledError):
        await warning


async def test_nothing_is_told_of_a_file_that_has_left_the_deployment(tmp_path: Path) -> None:
    create_authority(tmp_path)
    for name in ("g", "f", "b"):
        issue(tmp_path, name)
    revoke(tmp_path, "b")
    found, metrics = deployment(tmp_path), GatewayMetrics()
    access, own = Access(found, metrics), found.gateway.agent_tls
    assert own is not None
    no_list = msgspec.structs.replace(own, crl=None)
    without = found.with_gateways(lambda g: msgspec.structs.replace(g, agent_tls=no_list))
    for taken, files in ((without, set()), (found, {"agent_crl"}), (without, set())):
        access.take(read_access(taken))
        told = {file for (file,) in metrics.certificate_expires._metrics}
        assert told == {"certificate", "agent_certificate", "agent_ca", *files}


async def test_who_ends_in_the_turn_in_which_files_are_taken_ends(tmp_path: Path) -> None:
    """Python 3.11's `asyncio.wait_for` loses a cancellation then: the gateway never ended."""
    create_authority(tmp_path)
    for name in ("g", "f"):
        issue(tmp_path, name)
    revoke(tmp_path, "g")
    access = Access(deployment(tmp_path), GatewayMetrics())
    warning = asyncio.create_task(access.warn())
    await until(lambda: not access._taken.is_set())
    await asyncio.sleep(0)
    access.take_files(deployment(tmp_path))
    await asyncio.sleep(0)  # What waits for it is done, and nobody has heard so.
    warning.cancel()
    await asyncio.wait([warning], timeout=5.0)
    assert warning.cancelled()


async def test_keys_and_a_certificate_that_cannot_be_used_are_refused_together(
    tmp_path: Path,
) -> None:
    create_authority(tmp_path)
    for name in ("g", "f"):
        issue(tmp_path, name)
    revoke(tmp_path, "g")
    access = Access(deployment(tmp_path), GatewayMetrics())
    assert access.tls is not None
    before = access.tls.context
    (tmp_path / "f-key.pem").write_bytes((tmp_path / "g-key.pem").read_bytes())
    with pytest.raises(ConfigError, match="not a certificate and its key"):
        read_access(deployment(tmp_path))
    issue(tmp_path, "f")
    read = read_access(deployment(tmp_path))
    (tmp_path / "f-key.pem").write_text("half of a k")
    access.take(read)
    assert access.tls.context is not before


async def test_a_door_at_which_nobody_is_asked_for_a_key_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = """
clusters:
- {name: west, kind: pd, agent: {name: a, plaintext: true}, engines: [{name: d, role: decode}]}
gateway: {listen: "0.0.0.0:80", plaintext: true}
"""
    alone, keyed = (
        parse_deployment(each, source="test")
        for each in (text, text.replace("gateway: {", "gateway: {api_keys: [key], "))
    )
    access = Access(alone, GatewayMetrics())
    warning = asyncio.create_task(access.warn())
    await until(lambda: "whoever reaches 0.0.0.0:80 is answered" in caplog.text)
    caplog.clear()
    access.take(read_access(keyed))
    await until(lambda: not access._taken.is_set())
    warning.cancel()
    with suppress(asyncio.CancelledError):
        await warning
    assert "whoever reaches" not in caplog.text


@pytest.mark.parametrize("left", ["", "# the old one is gone\n"])
async def test_operators_whose_keys_are_gone_are_not_everybody_on_the_machine(
    left: str, tmp_path: Path
) -> None:
    file = tmp_path / "operators"
    file.write_text("secret\n")
    read = parse_deployment(
        f"""
clusters:
- {{name: west, kind: pd, agent: {{name: a}}, engines: [{{name: d, role: decode}}]}}
gateway: {{operator_keys_file: {file}}}
""",
        source="test",
    )
    assert read_access(read).operators == ("secret",)
    file.write_text(left)
    with pytest.raises(ConfigError, match=r"operators.*no key is left"):
        read_access(read)


async def test_a_tenants_key_file_that_is_away_keeps_no_others_key_good(tmp_path: Path) -> None:
    acmes, globexs = tmp_path / "acme", tmp_path / "globex"
    acmes.write_text("acme-key\n")
    globexs.write_text("leaked\nkept\n")
    read = parse_deployment(
        f"""
clusters:
- {{name: west, kind: pd, agent: {{name: a}}, engines: [{{name: d, role: decode}}]}}
gateway:
  tenants:
  - {{name: acme, api_keys_file: {acmes}}}
  - {{name: globex, api_keys_file: {globexs}}}
""",
        source="test",
    )
    access = Access(read, GatewayMetrics())

    def found(key: str) -> str | None:
        with suppress(RequestRefused):
            return access.tenants.find(key).name
        return None

    for now in ("kept\nnew\n", "kept\nacme-key\n"):
        acmes.unlink(missing_ok=True)
        globexs.write_text(now)
        with pytest.raises(ConfigError, match="acme"):
            read_access(read)
        access.take_files(read)
        assert found("leaked") is None
        assert found("kept") == "globex"
        assert found("acme-key") == "acme", "as it was, until its file can be read"
        assert (found("new") == "globex") == ("new" in now)
    acmes.write_text("acme-key\n")
    with pytest.raises(ConfigError, match="has a key that tenant 'acme' has, too"):
        read_access(read)
    globexs.write_text("acme-key\n")
    access.take_files(read)
    assert found("kept") is None
    assert found("acme-key") == "acme", "whose it was"
    acmes.write_text("another\n")
    access.take_files(read)
    assert found("acme-key") == "globex", "whose it is"


async def test_an_engines_key_file_that_is_away_keeps_no_authority_good(tmp_path: Path) -> None:
    for name in ("old", "own"):
        create_authority(tmp_path / name)
    own = issue(tmp_path / "own", "g")
    ca, key = tmp_path / "ca.pem", tmp_path / "engine-key"
    both = [(tmp_path / name / "ca.pem").read_bytes() for name in ("own", "old")]
    ca.write_bytes(b"".join(both))
    key.write_text("engines\n")
    files = f"{{ca: {ca}, cert: {own.cert}, key: {own.key}}}"
    read = parse_deployment(
        f"""
clusters:
- name: west
  kind: pd
  agent: {{name: a, admin: "10.0.0.1:7401", tls: {files}}}
  engines: [{{name: d, role: decode, url: "http://127.0.0.1:1", api_key_file: {key}}}]
gateway: {{name: g, agent_tls: {files}}}
""",
        source="test",
    )
    access = Access(read, GatewayMetrics())
    agent, taken = SimpleNamespace(tls=None), list[Any]()
    clients: Any = {"d": SimpleNamespace(take=taken.append)}, {"a": agent}
    key.unlink()
    ca.write_bytes(both[0])
    access.take_files(read)
    access.show_to(*clients)
    for context in (agent.tls, taken[0].tls):
        assert len(context.get_ca_certs()) == 1
    assert taken[0].headers == {"Authorization": "Bearer engines"}, "as it was"
