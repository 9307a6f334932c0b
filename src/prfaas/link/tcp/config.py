"""Configuration of one agent's KV link endpoint."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from prfaas.core.addresses import parse_address
from prfaas.core.errors import ConfigError
from prfaas.core.units import KIB
from prfaas.link.protocol.receiving_end import MAX_TRANSFERS, PEER_GRACE_S
from prfaas.tls.files import TlsFiles

LEAST_CHUNK_BYTES = 4 * KIB
WORKER_CORES = 8
"""On fewer, a link worker would only take a core from the engines or from the agent."""
MOST_WORKERS = 64
LEAST_INCOMING = 256
"""Connections that an agent takes, however few send to it."""


class Plaintext(msgspec.Struct, frozen=True):
    """No encryption and no authentication: a peer is who it says it is. Only for lines that are
    protected otherwise; it is never fallen back to."""


class PeerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How this agent sends to one other agent."""

    address: str
    """``host:port`` of the peer's KV link."""
    rate_bytes_per_s: float | None = None
    """Payload is paced to this; None: as fast as the line goes."""
    leave_to_others: float = 0.0
    """Share of the line's measured capacity (0 to 0.9) that is not used."""
    connections: int | None = None
    """TCP connections; None: chosen and adapted by the link."""
    most_connections: int = 64
    """How many the link may choose."""


class SharedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a line whose rate the agents at its ends share (`link.protocol.line_share`).
    All of them must be told the same."""

    rate_bytes_per_s: float
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    """The first that a sender is connected to divides the rate."""


class TcpLinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``security`` has no default: plaintext must be asked for by name."""

    name: str
    """This agent's name; under TLS the certificate must be issued to it."""
    security: TlsFiles | Plaintext
    listen: str = "127.0.0.1:0"
    """``host:port``; port 0 takes a free one (`TcpLink.address` tells which)."""
    peers: Mapping[str, PeerConfig] = {}
    lines: tuple[SharedLine, ...] = ()
    """Those that begin or end here. The rate of a link on one of them is the line's, of which it
    may have no more than its agent's part."""
    accept_from: frozenset[str] | None = None
    """Agents that may push to us; None: every peer with a valid certificate (or, in plaintext,
    every name)."""
    max_chunk_bytes: int = 1024 * KIB
    """Largest chunk sent or accepted; bounds what one connection can have half received."""
    min_chunk_bytes: int = 64 * KIB
    max_incoming_connections: int = LEAST_INCOMING
    """From all peers together: more than they all have, or some of them never come in."""
    max_pending_connections: int = 2048
    """Connections that have not yet said who they are; the oldest goes when one more comes: where
    5,000 come a second, each from an address of its own, after 400 ms, which is some round trips of
    a peer's."""
    max_incoming_transfers: int = MAX_TRANSFERS
    handshake_timeout_s: float = 10.0
    keepalive_s: float = 5.0
    """A silent connection is asked for a sign of life after this, and given up after three."""
    workers: int | None = None
    """Processes that carry connections where the memory is shared; None: as many as pay where
    there are `WORKER_CORES`, else none."""
    most_workers: int = 8
    """How many the link may choose; half of the cores at most."""
    idle_s: float = 60.0
    """Connections beyond the first are closed after so long without work."""
    peer_grace_s: float = PEER_GRACE_S
    """Incoming transfers of a sender without any connection are given up after this."""
    dscp: int = 0
    """Differentiated services code point of the packets (10: AF11 bulk, 0: best effort)."""
    congestion_control: str | None = None
    """TCP congestion control where the kernel offers it, else the system's; None: chosen for each
    line (`link.protocol.congestion_choice`)."""

    @property
    def silence_s(self) -> float:
        """How long a sender may be silent. It asks for a sign of life after one keep-alive period
        and gives up after three: one more, and it is gone without a word."""
        return 4 * self.keepalive_s


def check(config: TcpLinkConfig) -> None:
    """Raise ConfigError for values that cannot work together."""
    parse_address(config.listen)
    for name, peer in config.peers.items():
        check_peer(name, peer)
    for line in config.lines:
        if not line.rate_bytes_per_s >= len(line.senders) > 0:
            raise ConfigError(
                f"a line of {line.rate_bytes_per_s:g} bytes/s cannot be shared by "
                f"{len(line.senders)} senders"
            )
    if not LEAST_CHUNK_BYTES <= config.min_chunk_bytes <= config.max_chunk_bytes <= 64 * 1024 * KIB:
        raise ConfigError(
            "chunk sizes must satisfy 4 KiB <= min_chunk_bytes <= max_chunk_bytes <= 64 MiB"
        )
    if config.workers is not None and not 0 <= config.workers <= MOST_WORKERS:
        raise ConfigError(f"{config.workers} link workers: 0 to {MOST_WORKERS} are possible")
    if not 0 <= config.dscp < 64:
        raise ConfigError(f"dscp {config.dscp} is not in 0..63")


def check_peer(name: str, peer: PeerConfig) -> None:
    """Raise ConfigError naming the peer whose settings cannot work."""
    parse_address(peer.address)
    if peer.rate_bytes_per_s is not None and peer.rate_bytes_per_s <= 0:
        raise ConfigError(f"peer {name!r}: the rate must be above zero")
    if not 0.0 <= peer.leave_to_others <= 0.9:
        raise ConfigError(f"peer {name!r}: leave_to_others must be in 0..0.9")
    if peer.connections is not None and not 1 <= peer.connections <= 64:
        raise ConfigError(f"peer {name!r}: connections must be in 1..64")
    if not 1 <= peer.most_connections <= 64:
        raise ConfigError(f"peer {name!r}: most_connections must be in 1..64")
