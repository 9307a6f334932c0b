"""The certificates of a deployment: an authority of its own, and names that can be one."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from prfaas.core.errors import CallerError, ConfigError
from prfaas.tls import authority
from prfaas.tls.expiry import read_lists


def test_a_second_authority_in_one_directory_is_refused(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    with pytest.raises(CallerError, match="has a CA already"):
        authority.create_authority(tmp_path)
    with pytest.raises(CallerError, match="must be letters"):
        authority.issue(tmp_path, "../evil")
    with pytest.raises(ConfigError, match="certs init"):
        authority.issue(tmp_path / "elsewhere", "east")
    assert (tmp_path / "ca-key.pem").stat().st_mode & 0o077 == 0


def test_of_several_that_make_an_authority_at_a_time_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them said that they had, and the key was another's than the certificate."""
    write = authority._write

    def slowly(path: Path, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        write(path, *args, **kwargs)

    def create(_: int) -> Path | CallerError:
        try:
            return authority.create_authority(tmp_path)
        except CallerError as error:
            return error

    monkeypatch.setattr(authority, "_write", slowly)
    with ThreadPoolExecutor() as several:
        made = list(several.map(create, range(4)))
    refused = [str(each) for each in made if isinstance(each, CallerError)]
    assert len(refused) == 3
    assert all("has a CA already" in each for each in refused)
    authority.issue(tmp_path, "east")  # the key is the certificate's


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


def test_a_key_that_cannot_sign_for_the_authority_is_named(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for place in (mine, other):
        authority.create_authority(place)
    (mine / "ca.pem").write_bytes((other / "ca.pem").read_bytes())
    for make in (lambda: authority.issue(mine, "east"), lambda: authority.renew_list(mine)):
        with pytest.raises(ConfigError, match="is the key of none of"):
            make()
    assert not (mine / "east.pem").exists()
    assert not (mine / "crl.pem").exists()
    key = serialization.load_pem_private_key((other / "ca-key.pem").read_bytes(), None)
    kept = serialization.BestAvailableEncryption(b"a phrase")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, kept)
    (other / "ca-key.pem").write_bytes(pem)
    with pytest.raises(ConfigError, match=r"ca-key.pem has a pass phrase"):
        authority.issue(other, "east")


def test_an_authority_signs_beside_the_one_before_it(tmp_path: Path) -> None:
    """As its certificate, and its list, lie in the files of all while it takes over."""
    old, new = tmp_path / "old", tmp_path / "new"
    for place in (old, new):
        authority.create_authority(place)
    authority.issue(old, "west")
    authority.revoke(old, "west")
    both = (old / "ca.pem").read_bytes() + (new / "ca.pem").read_bytes()
    second = x509.load_pem_x509_certificates(both)[1]
    (new / "ca.pem").write_bytes(both)
    east = authority.issue(new, "east")
    made = x509.load_pem_x509_certificate(east.cert.read_bytes())
    made.verify_directly_issued_by(second)
    (new / "crl.pem").write_bytes(
        authority.renew_list(new).read_bytes() + (old / "crl.pem").read_bytes()
    )
    own, other = read_lists(authority.revoke(new, "east"))
    assert [one.serial_number for one in own] == [made.serial_number]
    assert [one.serial_number for one in other] == [_serial(old / "west.pem")]


@pytest.mark.parametrize("name", ["ca", "CA", "crl", "ca-key", "east-key"])
def test_no_name_is_the_authoritys_or_a_keys(name: str, tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    authority.issue(tmp_path, "east")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for act in (authority.issue, authority.revoke):
        with pytest.raises(CallerError, match="choose another name"):
            act(tmp_path, name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def _serial(cert: Path) -> int:
    return x509.load_pem_x509_certificate(cert.read_bytes()).serial_number


def _revoked(crl: Path) -> set[int]:
    return {one.serial_number for one in x509.load_pem_x509_crl(crl.read_bytes())}


def test_what_was_replaced_is_revoked_too_or_alone(tmp_path: Path) -> None:
    authority.create_authority(tmp_path)
    with pytest.raises(ConfigError, match="no certificate of 'east' is known here"):
        authority.revoke(tmp_path, "east")
    serials = [_serial(authority.issue(tmp_path, "east").cert) for _ in range(3)]
    authority.issue(tmp_path, "west")
    with pytest.raises(ConfigError, match="no certificate of 'west' is known here"):
        authority.revoke(tmp_path, "west", replaced=True)
    assert _revoked(authority.revoke(tmp_path, "east", replaced=True)) == set(serials[:2])
    assert _revoked(authority.revoke(tmp_path, "east")) == set(serials)
    all_at_once = {_serial(authority.issue(tmp_path, "south").cert) for _ in range(3)}
    assert _revoked(authority.revoke(tmp_path, "south")) == all_at_once | set(serials)


def test_who_is_revoked_beside_others_is_on_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each made the list of what it had read: of six that were revoked at a time two were on it."""
    authority.create_authority(tmp_path)
    serials = {name: _serial(authority.issue(tmp_path, name).cert) for name in ("a", "b", "c")}
    write = authority._write

    def slowly(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        write(*args, **kwargs)

    monkeypatch.setattr(authority, "_write", slowly)
    with ThreadPoolExecutor() as several:
        paths = list(several.map(lambda name: authority.revoke(tmp_path, name), serials))
        made = list(several.map(lambda _: authority.issue(tmp_path, "d"), range(3)))
    assert _revoked(paths[0]) == set(serials.values())
    authority.revoke(tmp_path, "d")
    assert len(_revoked(paths[0])) == len(serials) + len(made), "also those that were replaced"
