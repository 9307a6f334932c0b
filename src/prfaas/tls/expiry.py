"""When certificates, and lists of revoked ones, are no longer valid."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from math import inf
from os.path import isfile
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from prfaas.core.errors import ConfigError
from prfaas.tls.reading import reading

_LISTS = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
SOON_S = timedelta(days=30).total_seconds()
"""Before a certificate expires, from when on it is warned of."""


class Expiry(NamedTuple):
    """Times in Unix seconds. ``then``: what happens at ``at``; ``begins``: from when on it is
    valid."""

    path: Path
    at: float
    warn_from: float
    then: str = ""
    begins: float = -inf


def certificate_expiry(path: Path) -> Expiry:
    """Of the first that expires of a PEM file. Raises ConfigError."""
    with reading(path, "a certificate"):
        found = x509.load_pem_x509_certificates(path.read_bytes())
        at = min(certificate.not_valid_after_utc.timestamp() for certificate in found)
        begins = max(certificate.not_valid_before_utc.timestamp() for certificate in found)
    return Expiry(path, at, at - SOON_S, begins=begins)


def list_expiry(crl: Path) -> Expiry:
    """Of the first of a file's revocation lists that runs out: TLS lets nobody in by an old one.
    Raises ConfigError."""
    with reading(crl, "a revocation list"):
        return min((_expiry(crl, found) for found in read_lists(crl)), key=lambda expiry: expiry.at)


def _expiry(crl: Path, found: x509.CertificateRevocationList) -> Expiry:
    """Authorities write some for a year and some for a week, so it is warned of in the last quarter
    of its life."""
    if found.next_update_utc is None:
        return Expiry(crl, inf, inf)
    at, began = found.next_update_utc.timestamp(), found.last_update_utc.timestamp()
    warn_from = at - min(SOON_S, (at - began) / 4)
    return Expiry(crl, at, warn_from, ", and nobody is let in from then on", began)


def read_lists(crl: Path) -> list[x509.CertificateRevocationList]:
    """All of a file, as TLS reads them: one of each authority. Raises ConfigError."""
    if not isfile(crl):  # To read a pipe would take as long as nobody writes.
        raise ConfigError(f"{crl}: no such file; 'prfaas certs revoke' makes it")
    with reading(crl, "a revocation list"):
        content = crl.read_bytes()
        return [x509.load_pem_x509_crl(one) for one in _LISTS.findall(content) or [content]]


def expiring(expiries: Iterable[Expiry], *, now: float) -> list[str]:
    """Lines of warning, of what expires soon or has expired, or is not valid yet; ``now`` in Unix
    seconds."""
    found = []
    for path, at, warn_from, then, begins in expiries:
        if now < begins:
            when = datetime.fromtimestamp(begins, UTC)
            found.append(
                f"{path} is not valid before {when:%Y-%m-%d %H:%M} UTC, and refused until then: "
                "is the clock of this machine right?"
            )
        if now >= warn_from:
            left_s = at - now
            what = f"expires in {left_s / 86400:.0f} days" if left_s > 0 else "has expired"
            found.append(
                f"{path} {what}{then}: put a new one in its place, it is taken over at once"
            )
    return found
