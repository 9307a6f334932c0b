"""TLS 1.3 between agents, and from gateways to agents: both sides show a certificate of the
deployment's own CA.

The name in the certificate (a DNS subject alternative name, or a URI) says which agent or gateway
it is.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from os.path import isfile
from pathlib import Path
from typing import Any, TypeVar

from cryptography import x509

from prfaas.core.addresses import Address
from prfaas.core.errors import ConfigError, PeerError
from prfaas.tls.files import TlsFiles
from prfaas.tls.own_certificate import load_own
from prfaas.tls.records import tell_records
from prfaas.tls.trusted import OpenTransports, Trusted, read_authorities, shown_by

KV_LINK = "prfaas-kv"
"""What connections of the KV link ask for (ALPN), so that HTTP can be served at the same port."""
ContextKind = TypeVar("ContextKind", bound=ssl.SSLContext)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For incoming connections. Raises ConfigError naming the file that cannot be used."""
    context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)
    context.num_tickets = 0  # connections are long-lived: nothing is resumed
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For outgoing connections. Raises ConfigError naming the file that cannot be used."""
    context = _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)
    # The chain is verified; the name is compared by `check_identity`, for names that need not
    # be host names.
    context.check_hostname = False
    return context


class PeerContext(ssl.SSLContext):
    """A context for connections to one agent, which `check_server` then looks at; ``peer`` is its
    name in its certificate."""

    peer: str
    address: Address
    """Where it is dialled, also for its engines."""
    opened: OpenTransports | None = None
    """Told of each connection, where the process outlives what its files say."""
    trusted: Trusted
    """TLS looks for the other end's certificate in lists, not for the authorities above it."""


class _NamedEnd(ssl.SSLObject):
    """asyncio's."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_named(self)


class _NamedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_named(self)


class NamedContext(ssl.SSLContext):
    """A context for connections to whatever has the name ``peer`` in its certificate, a host name
    or not: the handshake with anything else fails."""

    peer: str
    trusted: Trusted


def _check_named(end: ssl.SSLObject | ssl.SSLSocket) -> None:
    names, context = names_of(end.getpeercert()), end.context
    if not isinstance(context, NamedContext):
        return
    if context.peer not in names:
        raise ssl.SSLCertVerificationError(1, _other(names, context.peer))
    why = context.trusted.why_not(shown_by(end), now=time.time())
    if why is not None:
        raise ssl.SSLCertVerificationError(1, why)


def named_context(files: TlsFiles, name: str, *, shows: bool = False) -> NamedContext:
    """For outgoing connections to what ``files`` call ``name``; ``shows``: with our certificate.
    Raises ConfigError naming the file that cannot be used."""
    context = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.sslobject_class, context.sslsocket_class = _NamedEnd, _NamedSocket
    context.peer = files.name_of(name)
    made = _context(context, files) if shows else _trusting(context, files)
    made.trusted = _trusted(files)
    return made


def _trusted(files: TlsFiles) -> Trusted:
    made = Trusted()
    made.take(read_authorities(files))
    return made


def peer_context(files: TlsFiles, agent: str, address: Address) -> PeerContext:
    """As `client_context`, for one agent. Raises ConfigError naming the file that cannot be
    used."""
    context = PeerContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _context(context, files)
    context.peer, context.address = files.name_of(agent), address
    context.trusted = _trusted(files)
    return tell_records(context)


def check_server(context: PeerContext, transport: asyncio.BaseTransport) -> None:
    """Raise PeerError unless the other end of a connection that was made with ``context`` is the
    agent that it is for."""
    names = names_of(transport.get_extra_info("peercert"))
    if context.peer not in names:
        raise PeerError(_other(names, context.peer))
    opened = OpenTransports() if context.opened is None else context.opened
    why = context.trusted.why_not(opened.add(transport), now=time.time())
    if why is not None:
        raise PeerError(why)


def _context(context: ContextKind, files: TlsFiles) -> ContextKind:
    for path in (files.ca, files.cert, files.key):
        _must_be(path)
    _trusting(context, files)
    load_own(context, files.cert, files.key)
    return context


def _must_be(path: Path) -> None:
    if not isfile(path):
        raise ConfigError(
            f"{path}: no such file; 'prfaas certs init' and 'prfaas certs issue' make it"
        )


def _trusting(context: ContextKind, files: TlsFiles) -> ContextKind:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # Kernel TLS where Python (3.12), OpenSSL and the kernel have it; OpenSSL does without it else.
    context.options |= getattr(ssl, "OP_ENABLE_KTLS", 0)
    _must_be(files.ca)
    try:
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{files.ca}: not a CA certificate in PEM: {error}") from error
    # Who trusts an authority below a root need not trust all of the root's.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if files.crl is not None:
        _revoke(context, files.crl)
    return context


def _revoke(context: ssl.SSLContext, crl: Path) -> None:
    if not isfile(crl):
        raise ConfigError(f"{crl}: no such file; 'prfaas certs revoke' makes it")
    authorities = context.cert_store_stats()["x509"]
    try:
        context.load_verify_locations(crl)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{crl}: not a revocation list in PEM: {error}") from error
    if context.cert_store_stats()["x509"] != authorities:
        # OpenSSL trusts it. A list is signed, and may come from anywhere; this would not be.
        raise ConfigError(
            f"{crl}: has a certificate in it, which only the file of ca may bring; take it out"
        )
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def identity(sock: ssl.SSLSocket) -> frozenset[str]:
    """The names in the peer's verified certificate."""
    return names_of(sock.getpeercert())


def names_of(peercert: Mapping[str, Any] | None) -> frozenset[str]:
    """The names in a certificate as `ssl` tells it; none where there is none."""
    certificate: Mapping[str, Any] = peercert or {}
    names: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    return frozenset(value for kind, value in names if kind in ("DNS", "URI"))


def names_in(certificate: x509.Certificate) -> frozenset[str]:
    """The same of a file's. Raises ValueError for one that cannot be read."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    names = (x509.DNSName, x509.UniformResourceIdentifier)
    return frozenset(name for kind in names for name in found.get_values_for_type(kind))


def check_identity(sock: ssl.SSLSocket, name: str) -> None:
    """Raise PeerError unless the peer's certificate is issued to ``name``."""
    names = identity(sock)
    if name not in names:
        raise PeerError(_other(names, name))


def _other(names: frozenset[str], name: str) -> str:
    found = ", ".join(sorted(names)) or "no name"
    return f"certificate is issued to {found}, not to {name!r}"
