"""The certificates of a deployment: an authority of its own, and names that can be one."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from prfaas.core.errors import CallerError, ConfigError
from prfaas.tls import authority


def test_a_second_authority_in_one_directory_is_refused(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    with pytest.raises(CallerError, match="has a CA already"):
        authority.create_authority(tmp_path)
    with pytest.raises(CallerError, match="agent name"):
        authority.issue(tmp_path, "../evil")
    with pytest.raises(ConfigError, match="certs init"):
        authority.issue(tmp_path / "elsewhere", "east")
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o077 == 0


def test_a_certificate_carries_its_agents_name(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    files = authority.issue(tmp_path, "east.example-1")
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["east.example-1"]
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))


def test_a_second_certificate_replaces_the_first(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    first = authority.issue(tmp_path, "east").cert.read_bytes()
    assert authority.issue(tmp_path, "east").cert.read_bytes() != first
    assert not list(tmp_path.glob("*.new"))


def test_what_is_no_authority_is_named(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=f"the CA in {tmp_path} cannot be read"):
        authority.issue(tmp_path, "east")
    with pytest.raises(CallerError, match="is no date; write fewer days"):
        authority.create_authority(tmp_path / "new", days=10**9)
