"""The agent of one machine, as the deployment file describes it."""

from __future__ import annotations

from pathlib import Path

from prfaas.core.addresses import parse_address
from prfaas.core.deployment.engines import ProcessName
from prfaas.core.strict import Strict
from prfaas.core.units import parse_bytes

CACHE_KEY = "cache.key"


class TlsConfig(Strict, frozen=True):
    """The PEM files that an agent, or a gateway before agents, shows and trusts, as `prfaas certs`
    makes them. They are read again when they change."""

    ca: str
    """The authority, or one below a root; ``cert`` may be followed by those between."""
    cert: str
    key: str
    crl: str | None = None
    """The authority's revocation list."""
    names: str = "{agent}"
    """What the certificate of an agent calls it: a DNS name or, with ``://``, a URI, for example
    ``spiffe://example.org/prfaas/{agent}``."""
    cache_key: str | None = None
    """What cache events are keyed with, the same file for all agents and gateways; None:
    ``cache.key`` beside ``ca``."""

    @property
    def cache_key_file(self) -> str:
        """Where it is read."""
        return self.cache_key or str(Path(self.ca).with_name(CACHE_KEY))


class SpillConfig(Strict, frozen=True):
    """A directory on the machine's own disk, for what is cached in memory and for what is not any
    more. KV lies there in the clear."""

    path: str
    """Absolute; this agent's alone (mode 0700). Its parent must be there."""
    size: str
    """At most so much is kept there."""

    @property
    def most_bytes(self) -> int:
        """The same in bytes."""
        return parse_bytes(self.size)


class CacheConfig(Strict, frozen=True):
    """Prefixes that an agent keeps for engines of its machine (`docs/agent.md`)."""

    size: str | None = None
    """At most so much of the arena; ``0 B`` keeps nothing. None: half of the arena."""
    answers: bool = False
    """Whether what engines here have answered is kept as well, when a request is complete."""
    spill: SpillConfig | None = None
    """A second tier on disk, which outlives the agent; None: there is none."""


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
    """Where HTTP is bound: health, metrics, transfers, links, and the way to its engines; over
    mutual TLS where there is ``tls``. The same as ``listen``: both are served at one port."""
    admin_advertise: str | None = None
    """Where gateways and operators reach it; None: at ``admin``. With one port, where others reach
    that is said once, here or at ``advertise``."""
    socket: str | None = None
    """Unix socket for engines; chosen where we start it."""
    arena: str = "512 MiB"
    slot: str = "1 MiB"
    cache: CacheConfig = CacheConfig()
    tls: TlsConfig | None = None
    plaintext: bool = False
    """Speak without TLS. Never a fallback: it must be asked for."""
    dscp: int = 0
    """Differentiated services code point (0 to 63) of the packets this agent's KV link sends."""
    link_workers: int | None = None
    """Processes that carry the KV link's connections beside the agent's own; None: as many as pay,
    on a machine with 8 cores or more."""
    external: bool = False
    """Started elsewhere; `prfaas up` only connects to it."""

    @property
    def has_one_port(self) -> bool:
        """Whether the KV link and HTTP are served at the same."""
        listen = parse_address(self.listen, what="listen")
        return listen.port != 0 and listen == parse_address(self.admin, what="admin")

    @property
    def told_of_both(self) -> str | None:
        """Who says where others reach one of two at one port has said it of both; None: nobody."""
        return (self.advertise or self.admin_advertise) if self.has_one_port else None

    @property
    def link_address(self) -> str:
        """``host:port`` at which other agents reach the KV link."""
        return self.advertise or self.told_of_both or self.listen

    @property
    def admin_address(self) -> str:
        """``host:port`` at which gateways and operators reach it over HTTP."""
        return self.admin_advertise or self.told_of_both or self.admin

    @property
    def admin_url(self) -> str:
        """The same as a URL, without a path."""
        return f"{'http' if self.tls is None else 'https'}://{self.admin_address}"

    @property
    def arena_bytes(self) -> int:
        """Bytes of shared memory."""
        return parse_bytes(self.arena)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return parse_bytes(self.slot)

    @property
    def cache_slots(self) -> int:
        """How many slots may hold cached prefixes."""
        if self.cache.size is None:
            return self.arena_bytes // self.slot_bytes // 2
        return parse_bytes(self.cache.size) // self.slot_bytes
