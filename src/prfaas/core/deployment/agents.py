"""The agent of one machine, as the deployment file describes it."""

from __future__ import annotations

from prfaas.core.deployment.engines import ProcessName
from prfaas.core.strict import Strict
from prfaas.core.units import parse_bytes


class TlsConfig(Strict, frozen=True):
    """The PEM files an agent shows and trusts, as `prfaas certs` makes them. They are read again
    when they change."""

    ca: str
    """The authority, or one below a root; ``cert`` may be followed by those between."""
    cert: str
    key: str
    crl: str | None = None
    """The authority's revocation list."""
    names: str = "{agent}"
    """What the certificate of an agent calls it: a DNS name or, with ``://``, a URI, for example
    ``spiffe://example.org/prfaas/{agent}``."""


class AgentConfig(Strict, frozen=True):
    """The agent of a machine.

    Where it binds and where others reach it are two settings, for the KV link and for HTTP: behind
    NAT, in a container or on every interface (``0.0.0.0``, ``[::]``) they differ.
    """

    name: ProcessName
    listen: str = "127.0.0.1:0"
    """Where the KV link is bound."""
    advertise: str | None = None
    """Where other agents reach the KV link; None: at ``listen``."""
    admin: str = "127.0.0.1:0"
    """Where HTTP is bound: health, metrics, transfers, links."""
    admin_advertise: str | None = None
    """Where gateways and operators reach it; None: at ``admin``."""
    socket: str | None = None
    """Unix socket for engines; chosen where we start it."""
    arena: str = "512 MiB"
    slot: str = "1 MiB"
    tls: TlsConfig | None = None
    plaintext: bool = False
    """Speak without TLS. Never a fallback: it must be asked for."""
    dscp: int = 0
    """Differentiated services code point (0 to 63) of the packets this agent's KV link sends."""
    external: bool = False
    """Started elsewhere; `prfaas up` only connects to it."""

    @property
    def link_address(self) -> str:
        """``host:port`` at which other agents reach the KV link."""
        return self.advertise or self.listen

    @property
    def admin_address(self) -> str:
        """``host:port`` at which gateways and operators reach it over HTTP."""
        return self.admin_advertise or self.admin

    @property
    def admin_url(self) -> str:
        """The same as a URL, without a path."""
        return f"http://{self.admin_address}"

    @property
    def arena_bytes(self) -> int:
        """Bytes of shared memory."""
        return parse_bytes(self.arena)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return parse_bytes(self.slot)
