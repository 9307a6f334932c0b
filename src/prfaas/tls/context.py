"""TLS 1.3 between agents: both sides show a certificate of the deployment's own CA.

The name in the certificate (its DNS subject alternative name) is the agent's identity.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from prfaas.core.errors import ConfigError, PeerError
from prfaas.tls.files import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For incoming connections. Raises ConfigError naming the file that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.num_tickets = 0  # connections are long-lived: nothing is resumed
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For outgoing connections. Raises ConfigError naming the file that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, files)
    # The chain is verified; the name is compared by `check_identity`, for names that need not
    # be host names.
    context.check_hostname = False
    return context


def _context(protocol: int, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # Kernel TLS where Python (3.12), OpenSSL and the kernel have it; OpenSSL does without it else.
    context.options |= getattr(ssl, "OP_ENABLE_KTLS", 0)
    for path in (files.ca, files.cert, files.key):
        if not path.is_file():
            raise ConfigError(
                f"{path}: no such file; 'prfaas certs init' and 'prfaas certs issue' make it"
            )
    try:
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{files.ca}: not a CA certificate in PEM: {error}") from error
    # Who trusts an authority below a root need not trust all of the root's.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if files.crl is not None:
        _revoke(context, files.crl)
    try:
        context.load_cert_chain(files.cert, files.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{files.cert} and {files.key}: not a certificate and its key in PEM: {error}"
        ) from error
    return context


def _revoke(context: ssl.SSLContext, crl: Path) -> None:
    if not crl.is_file():
        raise ConfigError(f"{crl}: no such file; 'prfaas certs revoke' makes it")
    try:
        context.load_verify_locations(crl)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{crl}: not a revocation list in PEM: {error}") from error
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def identity(sock: ssl.SSLSocket) -> frozenset[str]:
    """The names in the peer's verified certificate."""
    certificate: dict[str, Any] = dict(sock.getpeercert() or {})
    names: tuple[tuple[str, str], ...] = certificate.get("subjectAltName", ())
    return frozenset(value for kind, value in names if kind in ("DNS", "URI"))


def check_identity(sock: ssl.SSLSocket, name: str) -> None:
    """Raise PeerError unless the peer's certificate is issued to ``name``."""
    names = identity(sock)
    if name not in names:
        found = ", ".join(sorted(names)) or "no name"
        raise PeerError(f"certificate is issued to {found}, not to {name!r}")
