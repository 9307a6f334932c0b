"""Everything an operator's metrics need of a link, as data; the numbers only ever grow, except
for those of a connection."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from prfaas.link.api import LinkState
from prfaas.link.protocol.line_monitor import ConnectionSample


class ConnectionTelemetry(msgspec.Struct, frozen=True):
    """One open connection to a peer (seconds, bytes)."""

    number: int
    rtt_s: float
    min_rtt_s: float
    retransmits: int
    delivery_rate_bytes_per_s: float
    window_bytes: int
    unsent_bytes: int
    sent_bytes: int


def connections_telemetry(
    samples: Mapping[int, ConnectionSample],
) -> tuple[ConnectionTelemetry, ...]:
    """What the kernel last said of each connection, by its number."""
    return tuple(
        ConnectionTelemetry(
            number,
            s.rtt_s,
            s.min_rtt_s,
            s.retransmits,
            s.delivery_rate_bytes_per_s,
            s.window_bytes,
            s.unsent_bytes,
            s.sent_bytes,
        )
        for number, s in samples.items()
    )


class PeerTelemetry(msgspec.Struct, frozen=True):
    """Sending to one peer. Bytes acknowledged are counted once, bytes resent when sent again."""

    state: LinkState
    connections: tuple[ConnectionTelemetry, ...]
    transfers_completed: int
    transfers_failed: int
    chunks_returned: int
    connections_lost: int
    dial_errors: Mapping[str, int]
    last_error: str


class LinkCounters(msgspec.Struct, frozen=True):
    """The whole endpoint: what it sends, by peer, and what it receives."""

    peers: Mapping[str, PeerTelemetry]
    workers: int
    """Processes that carry connections beside the agent's own."""
    incoming_connections: int
    pending_connections: int
    turned_away: Mapping[str, int]
    """Connections refused, by cause: certificate, refused-us, plaintext, tls, name, forbidden,
    protocol, unknown, timeout, overflow, closed, handshake, accept."""
    bytes_stored: int
    bytes_duplicate: int
    chunks_corrupt: int
    transfers_completed: int
    transfers_failed: int
    transfers_refused: int
