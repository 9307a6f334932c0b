"""Whether revocation can work, as a process's files are: who has a list, and who lacks one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from prfaas.tls.expiry import read_lists
from prfaas.tls.files import TlsFiles
from prfaas.tls.reading import reading

_SHORT = timedelta(days=31)


class Lack(NamedTuple):
    """What is not as it should be, and what to do."""

    found: str
    advice: str

    def __str__(self) -> str:
        return f"{self.found}; {self.advice}"


def lists_lacking(files: TlsFiles) -> Lack | None:
    """None where nothing is: also where certificates live for a month at most, and revoke
    themselves. Raises ConfigError for files that cannot be used."""
    with reading(files.ca, "a CA certificate"):
        return _lacking(files)


def _lacking(files: TlsFiles) -> Lack | None:
    own = _certificates(files.cert)
    if files.crl is None:
        life = own[0].not_valid_after_utc - own[0].not_valid_before_utc
        if life <= _SHORT:
            return None
        return Lack(
            "no list of revoked certificates is read: whoever has taken a key may use it until its "
            "certificate expires",
            f"'prfaas certs revoke' makes one, with no name one of nobody; write crl: FILE beside "
            f"ca: {files.ca}, for every agent and gateway",
        )
    lists = read_lists(files.crl)
    names = [
        f"{one.subject.rfc4514_string()} of {one.not_valid_before_utc:%Y-%m-%d}"
        for one in _that_sign(_certificates(files.ca), own)
        if not any(_is_of(found, one) for found in lists)
    ]
    if not names:
        return None
    return Lack(
        f"{files.crl} has no list of {', '.join(names)}: nobody gets in whose certificate that has "
        "signed",
        "append its list; 'prfaas certs revoke' with no name makes one where its key is",
    )


def _certificates(path: Path) -> list[x509.Certificate]:
    with reading(path, "a certificate"):
        return x509.load_pem_x509_certificates(path.read_bytes())


def _that_sign(
    authorities: Iterable[x509.Certificate], own: list[x509.Certificate]
) -> Iterator[x509.Certificate]:
    """Authorities that sign agents and gateways, as far as can be told here: not those of which
    this process's own certificate shows one below, but that."""
    leaf, *between = own
    yield from (one for one in between if _has_issued(one, leaf))
    for one in authorities:
        if not any(_has_issued(one, below) for below in between):
            yield one


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        certificate.verify_directly_issued_by(authority)
        return True
    return False


def _is_of(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    # Of a kind of key that signs no lists, or that OpenSSL knows and `cryptography` does not.
    with contextlib.suppress(TypeError, ValueError, UnsupportedAlgorithm):
        return bool(found.is_signature_valid(authority.public_key()))  # type: ignore[arg-type]
    return False
