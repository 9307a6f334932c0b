"""What the gateway shows to engines, and whom it takes for one."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.strict import naming
from prfaas.tls.front import trusting


class Credentials(msgspec.Struct, frozen=True):
    """For one engine. ``headers`` go with every request; ``tls`` is for ``https``: None trusts the
    authorities that this machine trusts."""

    headers: Mapping[str, str] = {}
    tls: ssl.SSLContext | None = None


NONE = Credentials()


def read_credentials(deployment: Deployment) -> dict[str, Credentials]:
    """Of every engine that wants any, by its name. Raises ConfigError, never with a key in its
    text."""
    found: dict[str, Credentials] = {}
    trusted: dict[str, ssl.SSLContext] = {}
    for engine in deployment.engines:
        with naming(f"engine {engine.name!r}"):
            keys = engine.keys.read()
            headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
            tls = None
            if engine.ca is not None:
                if engine.ca not in trusted:
                    trusted[engine.ca] = trusting(Path(engine.ca))
                tls = trusted[engine.ca]
            if headers or tls is not None:
                found[engine.name] = Credentials(headers, tls)
    return found
