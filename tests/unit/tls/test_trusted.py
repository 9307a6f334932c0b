"""Whose certificates are good, as what is read changes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from prfaas.core.errors import ConfigError
from prfaas.tls.authority import create_authority, issue, revoke
from prfaas.tls.files import TlsFiles, files_of
from prfaas.tls.trusted import Shown, Trusted, read_authorities


def made(at: Path, name: str = "a") -> tuple[TlsFiles, Shown]:
    create_authority(at)
    files = issue(at, name)
    certificate, ca = (path.read_bytes() for path in (files.cert, files.ca))
    return files, (x509.load_pem_x509_certificate(certificate), x509.load_pem_x509_certificate(ca))


def test_who_is_revoked_has_expired_or_is_of_an_authority_of_before(tmp_path: Path) -> None:
    files, shown = made(tmp_path / "old")
    trusted, now = Trusted(), time.time()
    trusted.take(read_authorities(files))
    assert trusted.why_not(shown, now=now) is None
    assert trusted.why_not(shown, now=now + 366 * 86400) == "its certificate has expired"
    listed = TlsFiles(files.ca, files.cert, files.key, revoke(tmp_path / "old", "a"))
    trusted.take(read_authorities(listed))
    assert trusted.why_not(shown, now=now) == "its certificate is revoked"
    others, _ = made(tmp_path / "new")
    trusted.take(read_authorities(others))
    assert "not trusted any more" in str(trusted.why_not(shown, now=now))
    trusted.take(read_authorities(files))
    assert trusted.why_not(shown, now=now) is None


def test_a_certificate_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """OpenSSL takes names that are no text; with one such connection no other was looked at."""
    files, (certificate, ca) = made(tmp_path)
    name, der = b"PrfaaS KV link CA", certificate.public_bytes(Encoding.DER)
    assert name in der
    odd = x509.load_der_x509_certificate(der.replace(name, b"\xff" * len(name)))
    odd_ca = x509.load_der_x509_certificate(
        ca.public_bytes(Encoding.DER).replace(name, b"\xff" * len(name))
    )
    trusted, now = Trusted(), time.time()
    trusted.take(read_authorities(files))
    assert "its certificate cannot be read: " in str(trusted.why_not((odd,), now=now))
    said = str(trusted.why_not((certificate, odd_ca), now=now))
    assert "that of somebody whose name cannot be read above it cannot be read: " in said


def test_what_is_no_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        read_authorities(files_of(tmp_path, "a"))
