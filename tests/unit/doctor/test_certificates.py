"""Certificates: valid, soon to expire, expired, of the future, lost, open to others."""

from __future__ import annotations

import time
from pathlib import Path

from prfaas.core.deployment import Deployment, parse_deployment
from prfaas.doctor.certificates import check_certificates
from prfaas.tls.authority import create_authority, issue, revoke

DAY_S = 86_400.0


def deployment(security: str, gateway: str = "") -> Deployment:
    text = f"""
clusters:
  - name: west
    kind: pd
    agent: {{name: a, {security}}}
    engines: [{{name: d, role: decode}}]
gateway: {{{gateway}}}
"""
    return parse_deployment(text, source="test")


def with_files(directory: Path) -> Deployment:
    own = f"ca: {directory}/ca.pem, cert: {directory}/a.pem, key: {directory}/a-key.pem"
    shown = f"ca: {directory}/ca.pem, cert: {directory}/g.pem, key: {directory}/g-key.pem"
    return deployment(f"tls: {{{own}}}", f"agent_tls: {{{shown}}}")


def levels(found: Deployment, *, now: float) -> list[str]:
    """Of all but revocation lists."""
    checks = check_certificates(found, now=now)
    return [finding.level for finding in checks if finding.check != "revocation"]


def test_a_certificate_has_a_life(tmp_path: Path) -> None:
    create_authority(tmp_path, days=1000)
    issue(tmp_path, "a", days=100)
    whole, now = with_files(tmp_path), time.time()
    assert levels(whole, now=now) == ["ok", "ok", "ok"]
    assert levels(whole, now=now + 90 * DAY_S) == ["ok", "warning", "ok"]
    assert levels(whole, now=now + 200 * DAY_S) == ["ok", "error", "ok"]
    assert levels(whole, now=now - 200 * DAY_S)[:2] == ["error", "error"]
    (tmp_path / "a-key.pem").chmod(0o644)
    assert levels(whole, now=now)[-1] == "warning"


def test_a_gateways_files_are_looked_at_where_they_lie(tmp_path: Path) -> None:
    create_authority(tmp_path, days=1000)
    for name in ("b", "gateway", "front"):
        issue(tmp_path, name, days=100)
    own = f"agent_tls: {{ca: {tmp_path}/ca.pem, cert: {tmp_path}/gateway.pem, "
    own += f"key: {tmp_path}/gateway-key.pem, crl: {revoke(tmp_path, 'b')}}}"
    front = f"tls: {{cert: {tmp_path}/front.pem, key: {tmp_path}/front-key.pem}}"
    whole, now = deployment("plaintext: true", f"{own}, {front}"), time.time()
    assert levels(whole, now=now)[1:] == ["ok"] * 6
    assert levels(whole, now=now + 90 * DAY_S)[1:] == ["ok", "warning", "ok", "ok", "warning", "ok"]
    assert levels(whole, now=now + 340 * DAY_S)[4] == "warning"
    assert levels(whole, now=now + 370 * DAY_S)[4] == "error"
    for path in tmp_path.glob("*.pem"):
        path.unlink()
    assert levels(whole, now=now) == ["warning"]


def test_what_is_lost_or_no_certificate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    found = list(check_certificates(with_files(tmp_path), now=time.time()))
    assert [finding.level for finding in found] == ["error"] * 3
    assert "not a PEM certificate" in found[0].found


def test_a_certificate_of_another_name_is_an_error(tmp_path: Path) -> None:
    create_authority(tmp_path)
    issue(tmp_path, "a", called="spiffe://example.org/a")
    found = list(check_certificates(with_files(tmp_path), now=time.time()))
    (wrong,) = (finding for finding in found if finding.level == "error")
    assert "is issued to spiffe://example.org/a, not to 'a'" in wrong.found
    own = f"ca: {tmp_path}/ca.pem, cert: {tmp_path}/a.pem, key: {tmp_path}/a-key.pem"
    right = deployment(f'tls: {{{own}, names: "spiffe://example.org/{{agent}}"}}')
    assert levels(right, now=time.time()) == ["ok"] * 3


def test_a_cache_key_that_others_may_read_is_warned_of(tmp_path: Path) -> None:
    create_authority(tmp_path)
    issue(tmp_path, "a")
    (tmp_path / "cache.key").chmod(0o640)
    found = list(check_certificates(with_files(tmp_path), now=time.time()))
    assert f"chmod 600 {tmp_path}/cache.key" in [finding.advice for finding in found]


def test_plaintext_is_warned_of_and_silence_is_not() -> None:
    assert levels(deployment("plaintext: true"), now=0) == ["warning"]
    assert levels(deployment("external: false"), now=0) == []


def test_one_finding_says_that_nobody_can_be_revoked_and_what_to_do(tmp_path: Path) -> None:
    create_authority(tmp_path)
    for name in ("a", "g"):
        issue(tmp_path, name)
    (lack,) = (
        f for f in check_certificates(with_files(tmp_path), now=0) if f.check == "revocation"
    )
    assert lack.level == "warning"
    assert "no list of revoked certificates is read" in lack.found
    assert "'prfaas certs revoke' makes one" in lack.advice
