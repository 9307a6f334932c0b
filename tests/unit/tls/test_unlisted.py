"""Who has no revocation list is told what lacks, and what to do."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.faults.test_link_certificates import Chains

from prfaas.core.errors import ConfigError
from prfaas.tls.authority import create_authority, issue, renew_list
from prfaas.tls.files import TlsFiles, files_of
from prfaas.tls.unlisted import lists_lacking


def together(files: TlsFiles, *others: Path) -> None:
    """``files.ca`` followed by others'."""
    files.ca.write_bytes(b"".join(path.read_bytes() for path in (files.ca, *others)))


def test_without_a_list_nobody_can_be_revoked(tmp_path: Path) -> None:
    create_authority(tmp_path)
    lack = lists_lacking(issue(tmp_path, "a"))
    assert lack is not None
    assert "no list of revoked certificates is read" in str(lack)
    assert "'prfaas certs revoke'" in lack.advice
    assert (
        lists_lacking(msgspec.structs.replace(files_of(tmp_path, "a"), crl=renew_list(tmp_path)))
        is None
    )


@pytest.mark.parametrize(("days", "warns"), [(7, False), (30, False), (32, True)])
def test_what_lives_for_a_month_needs_none(days: int, warns: bool, tmp_path: Path) -> None:
    create_authority(tmp_path)
    assert (lists_lacking(issue(tmp_path, "a", days=days)) is not None) is warns


def test_each_authority_needs_a_list_where_one_has(tmp_path: Path) -> None:
    for name in ("old", "new"):
        create_authority(tmp_path / name)
    old, new = issue(tmp_path / "old", "a"), issue(tmp_path / "new", "b")
    together(old, new.ca)
    listed = msgspec.structs.replace(old, crl=renew_list(tmp_path / "old"))
    lack = lists_lacking(listed)
    assert lack is not None
    assert "has no list of CN=PrfaaS KV link CA of 20" in lack.found
    assert listed.crl is not None
    listed.crl.write_bytes(listed.crl.read_bytes() + renew_list(tmp_path / "new").read_bytes())
    assert lists_lacking(listed) is None
    listed.crl.write_bytes(renew_list(tmp_path / "new").read_bytes())
    assert "has no list of" in str(lists_lacking(listed))


def test_a_root_that_signs_other_authorities_alone_needs_none(tmp_path: Path) -> None:
    chains = Chains(tmp_path)
    files = msgspec.structs.replace(chains.files("a", chains.root), crl=tmp_path / "crl.pem")
    assert files.crl is not None
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .last_update(now)
        .next_update(now + datetime.timedelta(days=1))
    )
    for signer, key, lacks in (
        (chains.middle, chains.middle_key, None),
        (chains.root, chains.root_key, "has no list of CN=middle of root"),
    ):
        made = builder.issuer_name(signer.subject).sign(key, hashes.SHA256())
        files.crl.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        found = lists_lacking(files)
        assert (found is None) if lacks is None else (found is not None and lacks in found.found)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    create_authority(tmp_path)
    files = issue(tmp_path, "a")
    files.cert.write_text("nonsense")
    with pytest.raises(ConfigError, match=r"a\.pem: not a certificate"):
        lists_lacking(files)
    with pytest.raises(ConfigError, match=r"none\.pem"):
        lists_lacking(msgspec.structs.replace(issue(tmp_path, "a"), crl=tmp_path / "none.pem"))
