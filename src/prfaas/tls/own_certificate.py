"""What a process shows to the other end of its connections."""

from __future__ import annotations

import ssl
from pathlib import Path

from prfaas.core.errors import ConfigError


def load_own(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Have ``context`` show it. Raises ConfigError where the files cannot be used."""
    try:
        # For the pass phrase of a key OpenSSL would ask at the terminal, where there is one, and
        # nobody would be served until somebody has answered.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{cert} and {key}: not a certificate and its key in PEM, without a pass phrase: "
            f"{error}"
        ) from error
