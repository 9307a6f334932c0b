"""Which certificates are good now, and which open connections were made with others."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import NamedTuple, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from prfaas.tls.expiry import read_lists
from prfaas.tls.files import TlsFiles
from prfaas.tls.reading import reading

Shown = tuple[x509.Certificate, ...]
"""What the other end of a connection was believed by: its certificate, then each one's issuer."""


Revoked = frozenset[tuple[x509.Name, int]]
"""Issuer and number of each certificate."""


class Authorities(NamedTuple):
    """What files say of it."""

    trusted: frozenset[x509.Certificate]
    revoked: Revoked


def read_revoked(files: TlsFiles) -> Revoked:
    """Of all lists. Raises ConfigError naming the file that cannot be used."""
    if files.crl is None:
        return frozenset()
    with reading(files.crl, "a revocation list"):
        lists = read_lists(files.crl)
        return frozenset((each.issuer, one.serial_number) for each in lists for one in each)


def read_authorities(files: TlsFiles) -> Authorities:
    """Raises ConfigError naming the file that cannot be used."""
    revoked = read_revoked(files)
    with reading(files.ca, "a CA certificate"):
        trusted = x509.load_pem_x509_certificates(files.ca.read_bytes())
    return Authorities(frozenset(trusted), revoked)


class Trusted:
    """Whom a process trusts while it runs; nobody before the first `take`."""

    def __init__(self) -> None:
        self._found = Authorities(frozenset(), frozenset())
        self._withdrawn: frozenset[x509.Certificate] = frozenset()

    def take(self, found: Authorities) -> None:
        """Go by these from now on."""
        withdrawn = (self._withdrawn | self._found.trusted) - found.trusted
        self._withdrawn, self._found = withdrawn, found

    def revoke(self, revoked: Revoked) -> bool:
        """Trust these no more, and go on by all else; whether that changes anything."""
        before, now = self._found.revoked, self._found.revoked | revoked
        self._found = self._found._replace(revoked=now)
        return now != before

    def why_not(self, shown: Shown, *, now: float) -> str | None:
        """Why a connection would not be made any more whose other end has shown these certificates;
        None where it would. ``now``: Unix seconds."""
        for at, each in enumerate(shown):
            try:
                why = self._why_not(each, now)
            except ValueError as error:  # What it says is parsed only now; OpenSSL takes more.
                why = f"cannot be read: {error}"
            if why is not None:
                whose = f"that of {name_in((each,))} above it" if at else "its certificate"
                return f"{whose} {why}"
        if self._withdrawn and not _is_of(shown, self._found.trusted):
            return "its certificate is of an authority that is not trusted any more"
        return None

    def _why_not(self, each: x509.Certificate, now: float) -> str | None:
        if (each.issuer, each.serial_number) in self._found.revoked:
            return "is revoked"
        return "has expired" if each.not_valid_after_utc.timestamp() < now else None


class OpenTransports:
    """Connections of asyncio's that TLS was spoken over, and what their other ends have shown."""

    def __init__(self) -> None:
        self._open: dict[asyncio.BaseTransport, Shown] = {}

    def add(self, transport: asyncio.BaseTransport) -> Shown:
        """Once its handshake is over; again does no harm. Returns what was shown."""
        if transport not in self._open:
            self._open[transport] = shown_by(transport.get_extra_info("ssl_object"))
        return self._open[transport]

    def end_untrusted(self, trusted: Trusted, *, now: float) -> list[str]:
        """End those that would not be made any more; a line of the log for each. ``now``: Unix
        seconds. To be called now and then: it forgets those that have ended."""
        self._open = {t: peer for t, peer in self._open.items() if not t.is_closing()}
        ended = []
        for transport, peer in self._open.items():
            why = trusted.why_not(peer, now=now)
            if why is not None:
                cast(asyncio.Transport, transport).abort()
                ended.append(f"HTTP connection with {name_in(peer)} ended: {why}")
        return ended


def name_in(shown: Shown) -> str:
    """What a certificate calls its owner, for people."""
    try:
        return shown[0].subject.rfc4514_string()
    except ValueError:
        return "somebody whose name cannot be read"


def shown_by(end: ssl.SSLObject | ssl.SSLSocket) -> Shown:
    """What the other end of a connection has shown, with the authorities that it was believed by,
    where Python tells them."""
    try:  # Public from Python 3.13 on.
        chain = end._sslobj.get_verified_chain()  # type: ignore[union-attr]
        return tuple(x509.load_pem_x509_certificate(each.public_bytes().encode()) for each in chain)
    except (AttributeError, TypeError):
        return (x509.load_der_x509_certificate(end.getpeercert(True) or b""),)


def _is_of(shown: Shown, authorities: frozenset[x509.Certificate]) -> bool:
    return not authorities.isdisjoint(shown) or any(_issued(each, authorities) for each in shown)


def _issued(peer: x509.Certificate, authorities: Iterable[x509.Certificate]) -> bool:
    for authority in authorities:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            peer.verify_directly_issued_by(authority)
            return True
    return False
