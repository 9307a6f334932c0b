"""TLS of a gateway's own address, for clients that know it by its host name."""

from __future__ import annotations

import ssl
from pathlib import Path

from prfaas.core.deployment import GatewayConfig
from prfaas.core.errors import ConfigError


class FrontTls:
    """The context that new connections are made with, and its certificate, read again at will.
    ``minimum``: clients of all ages come to a gateway's address."""

    def __init__(
        self, cert: Path, key: Path, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    ) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = minimum
        self.context.set_alpn_protocols(["http/1.1"])
        self.read(cert, key)

    def read(self, cert: Path, key: Path) -> None:
        """From the next connection on these are shown. Raises ConfigError, having changed nothing,
        where they cannot be used."""
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
        _load(self.context, cert, key)


def trusting(ca: Path | None) -> ssl.SSLContext:
    """For connections to a server whose host name is checked, and whose certificate is of ``ca``;
    None: of an authority that this machine trusts. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{ca}: not a CA certificate in PEM: {error}") from error


def _load(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    for path in (cert, key):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{cert} and {key}: not a certificate and its key in PEM: {error}"
        ) from error


def trust_of(gateway: GatewayConfig) -> ssl.SSLContext | bool:
    """What our own tools trust when they speak to this gateway, as aiohttp takes it. Raises
    ConfigError."""
    ca = None if gateway.tls is None else gateway.tls.ca
    return True if ca is None else trusting(Path(ca))
