"""Whether anybody listens where a Ray cluster is said to be. Without Ray, which tries for minutes
before it says so."""

from __future__ import annotations

import socket

from prfaas.core.addresses import parse_address
from prfaas.core.errors import ConfigError

_DIAL_S = 10.0


def refuse_unreachable(address: str) -> None:
    """Raise ConfigError where nobody answers at ``HOST:PORT``. What has another form (``auto``, a
    URL) is for Ray to judge."""
    try:
        place = None if "://" in address else parse_address(address)
    except ConfigError:
        return
    try:
        if place is not None:
            socket.create_connection(place, _DIAL_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            f"no Ray cluster at {address!r}: {why}; start one with 'ray start --head'"
        ) from error
