"""TLS of a gateway's own address, for clients that know it by its host name."""

from __future__ import annotations

import ssl
from os.path import exists, isfile
from pathlib import Path

from prfaas.core.deployment import GatewayConfig
from prfaas.core.errors import ConfigError
from prfaas.tls.own_certificate import load_own
from prfaas.tls.records import tell_records


class FrontTls:
    """``context`` is what new connections are made with. It is exchanged whole: files that are read
    into the one in use may be in the middle of being written."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


def front_context(
    cert: Path, key: Path, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> ssl.SSLContext:
    """For who comes to a gateway's address; ``minimum``: clients of all ages do. Raises ConfigError
    where the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    context.set_alpn_protocols(["http/1.1"])
    for path in (cert, key):
        if not isfile(path):
            raise ConfigError(f"{path}: no such file")
    load_own(context, cert, key)
    return tell_records(context)


def trusting(ca: Path | None) -> ssl.SSLContext:
    """For connections to a server whose host name is checked, and whose certificate is of ``ca``;
    None: of an authority that this machine trusts. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{ca}: not a CA certificate in PEM: {error}") from error


def trusting_anybody() -> ssl.SSLContext:
    """For whoever asks a process of its own, on its own machine, and shows nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trust_of(gateway: GatewayConfig) -> ssl.SSLContext | bool:
    """What our own tools trust when they speak to this gateway, as aiohttp takes it: nobody, where
    its authority is not on this machine. Raises ConfigError for one that cannot be read."""
    ca = None if gateway.tls is None else gateway.tls.ca
    if ca is None:
        return True
    return trusting(Path(ca)) if exists(ca) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
