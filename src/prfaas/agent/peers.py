"""Who speaks to an agent over HTTP, and what of it they may ask for.

Under TLS the name in the other end's certificate says who it is. Gateways of the deployment may ask
for everything, and so may tools on the agent's machine, with its own. Others with a certificate of
the authority (agents, who watches them) may look at what says nothing of prompts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from prfaas.tls.context import names_of
from prfaas.tls.live import LiveTls

_OPEN = frozenset({"/health", "/metrics", "/links", "/links/events", "/engines"})


class Peers:
    """``tls``: None where HTTP is plaintext, and everybody may ask for everything."""

    def __init__(self, tls: LiveTls | None, gateways: Collection[str]) -> None:
        self.tls, self.gateways = tls, frozenset(gateways)

    def is_gateway(self, transport: asyncio.BaseTransport | None) -> bool:
        """Whether a gateway of the deployment is at the other end, or may be."""
        if self.tls is None:
            return True
        found = names_of(None if transport is None else transport.get_extra_info("peercert"))
        return any(self.tls.files.name_of(name) in found for name in self.gateways)

    def may(self, transport: asyncio.BaseTransport | None, method: str, path: str) -> bool:
        """Whether the other end may ask for this."""
        return (method in ("GET", "HEAD") and path in _OPEN) or self.is_gateway(transport)
