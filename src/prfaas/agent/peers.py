"""Who speaks to an agent over HTTP, and what of it they may ask for.

Under TLS the name in the other end's certificate says who it is. Gateways of the deployment may ask
for everything, and so may tools on the agent's machine, with its own. Others with a certificate of
the authority (agents, who watches them) may look at what says nothing of prompts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from prfaas.agent.refusals import Refusals
from prfaas.tls.context import names_of
from prfaas.tls.live import LiveTls
from prfaas.tls.trusted import OpenTransports

_OPEN = frozenset({"/health", "/metrics", "/links", "/engines"})
"""Answered at once: who holds no right to more cannot hold a connection either."""


class Peers:
    """``tls``: None where HTTP is plaintext, and everybody may ask for everything."""

    def __init__(self, tls: LiveTls | None, gateways: Collection[str]) -> None:
        self.tls, self.gateways = tls, frozenset(gateways)
        self.refusals = Refusals()
        self._open = OpenTransports()

    def is_gateway(self, transport: asyncio.BaseTransport | None) -> bool:
        """Whether a gateway of the deployment is at the other end, or may be."""
        return self._is_trusted(transport) and self._is_named(transport)

    def _is_named(self, transport: asyncio.BaseTransport | None) -> bool:
        """Whether who is at the other end has shown a gateway's name."""
        if self.tls is None:
            return True
        found = names_of(None if transport is None else transport.get_extra_info("peercert"))
        return any(self.tls.files.name_of(name) in found for name in self.gateways)

    def _is_trusted(self, transport: asyncio.BaseTransport | None) -> bool:
        """Whether who is at the other end would be let in now: its handshake was before."""
        if self.tls is None or transport is None or transport.get_extra_info("peercert") is None:
            return True
        # `end_untrusted` ends it, but not at once.
        return self.tls.why_not(self._open.add(transport), now=time.time()) is None

    def may(self, transport: asyncio.BaseTransport | None, method: str, path: str) -> bool:
        """Whether the other end may ask for this."""
        is_open = method in ("GET", "HEAD") and path in _OPEN
        return self._is_trusted(transport) and (is_open or self._is_named(transport))

    def end_untrusted(self, *, now: float) -> list[str]:
        """End open connections that would not be made any more; a line of the log for each.
        ``now``: Unix seconds."""
        return [] if self.tls is None else self._open.end_untrusted(self.tls.trusted, now=now)
