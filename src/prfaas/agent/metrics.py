"""What Prometheus reads of an agent, gathered when it asks. Bytes are counted when acknowledged,
except for those that engines hand over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from prfaas.agent import families
from prfaas.agent.driver import PoolDriver
from prfaas.agent.tunnels import Tunnels
from prfaas.link.api import Link, LinkState
from prfaas.link.tcp.link import TcpLink
from prfaas.link.tcp.telemetry import LinkCounters
from prfaas.pool.books import PoolCounters, PoolSnapshot
from prfaas.process.connections import Connections
from prfaas.tls.expiry import Expiry

_LINK_GAUGES = {
    "connections": ("connections", "TCP connections to the peer"),
    "goodput_bytes_per_s": ("goodput_bytes_per_second", "Bytes acknowledged per second"),
    "utilisation": ("utilisation_ratio", "Share of the line in use, 0 to 1"),
    "rtt_s": ("rtt_seconds", "Smoothed round-trip time"),
    "min_rtt_s": ("min_rtt_seconds", "Smallest round-trip time"),
    "queued_bytes": ("queued_bytes", "Bytes the peer has accepted, not yet given to a connection"),
    "congestion": ("congestion_ratio", "0 clear to 1 saturated with queues building"),
}
_LINK_COUNTERS = {
    "acknowledged_bytes_total": (
        "acknowledged_bytes",
        "KV bytes the peer has verified and stored, each counted once",
    ),
    "resent_bytes_total": ("resent_bytes", "Bytes sent again"),
    "retransmits": ("retransmits", "TCP segments retransmitted"),
}

_RECEIVED = {
    "bytes_duplicate": ("duplicate_bytes", "Bytes received again and dropped"),
    "chunks_corrupt": ("corrupt_chunks", "Chunks whose checksum was wrong"),
    "transfers_refused": ("refused_transfers", "Transfers offered by peers and refused"),
}


class DoorCounts(NamedTuple):
    """What is counted at the agent's HTTP; ``refused``: requests by cause."""

    refused: Mapping[str, int]
    tunnels: Tunnels
    connections: Connections


class AgentCollector(Collector):
    """Reads the agent's own counts; nothing is counted twice for metrics' sake."""

    def __init__(self, driver: PoolDriver, link: Link, door: DoorCounts | None = None) -> None:
        self._driver, self._link, self._door = driver, link, door

    def collect(self) -> Iterator[Metric]:
        """One snapshot of the pool, and the link's own counts."""
        snapshot = self._driver.snapshot()
        yield from _memory(snapshot)
        yield from _cache(snapshot)
        yield from _transfers(snapshot)
        yield from _totals(snapshot.counters)
        yield from _links(self._link.states())
        if self._door is not None:
            yield from _door(self._door)
        if isinstance(self._link, TcpLink):
            yield from _endpoint(self._link.counters())
            if self._link.tls is not None:
                yield _expiry(self._link.tls.expiries)


def _expiry(expiries: Mapping[str, Expiry]) -> Metric:
    return families.gauges(
        "agent_certificate_expires_timestamp_seconds",
        "When the certificate is no longer valid, in Unix seconds",
        "file",
        {file: expiry.at for file, expiry in expiries.items()},
    )


def _memory(snapshot: PoolSnapshot) -> Iterator[Metric]:
    states = ("free", "leased", "queued", "held", "promised", "cached")
    yield families.gauges(
        "pool_slots", "Arena slots by state", "state",
        {state: getattr(snapshot.slots, state) for state in states},
    )  # fmt: skip
    yield GaugeMetricFamily("prfaas_pool_slot_bytes", "Size of an arena slot", snapshot.slot_bytes)
    yield GaugeMetricFamily(
        "prfaas_pool_lease_waiters", "Engines waiting for a slot", snapshot.lease_waiters
    )


def _cache(snapshot: PoolSnapshot) -> Iterator[Metric]:
    size, counters = snapshot.slot_bytes, snapshot.counters
    used = sum(entry.slots for entry in snapshot.cached) * size
    yield families.gauges(
        "pool_cache_size_bytes", "Most that cached prefixes may take", "tier",
        {"memory": snapshot.cache_slots * size, "disk": snapshot.disk_bytes},
    )  # fmt: skip
    yield families.gauges(
        "pool_cache_used_bytes", "What cached prefixes take, with those being read", "tier",
        {"memory": used, "disk": snapshot.disk_used_bytes},
    )  # fmt: skip
    yield GaugeMetricFamily(
        "prfaas_pool_cache_pinned_bytes", "Memory of cached prefixes that are pinned",
        snapshot.pinned_slots * size,
    )  # fmt: skip
    yield GaugeMetricFamily(
        "prfaas_pool_cache_entries", "Transfers of which the cache holds a part",
        len(snapshot.cached),
    )  # fmt: skip
    yield CounterMetricFamily(
        "prfaas_pool_cache_stored", "Parts of transfers that were cached", counters.cache_stored
    )
    yield CounterMetricFamily(
        "prfaas_pool_cache_evicted", "Parts that were evicted", counters.cache_evicted
    )
    yield families.counters(
        "pool_loads", "Loads of cached prefixes answered", "outcome",
        {"ready": counters.loads_ready, "failed": counters.loads_failed},
    )  # fmt: skip
    yield families.counters(
        "pool_copies",
        "Cached parts sent to other agents (complete, failed), and kept of theirs (kept)",
        "outcome",
        {
            "complete": counters.copies_complete,
            "failed": counters.copies_failed,
            "kept": counters.copies_kept,
        },
    )  # fmt: skip
    yield CounterMetricFamily(
        "prfaas_pool_loaded_tokens", "Tokens that engines were given from the cache",
        counters.loaded_tokens,
    )  # fmt: skip


def _transfers(snapshot: PoolSnapshot) -> Iterator[Metric]:
    engines = len(snapshot.engines)
    yield GaugeMetricFamily("prfaas_agent_engines", "Engine ranks registered", engines)
    yield families.gauges(
        "pool_open_transfers", "Under way", "side",
        {
            "export": snapshot.exports,
            "reception": snapshot.receptions,
            "import": snapshot.imports,
        },
    )  # fmt: skip


def _totals(counters: PoolCounters) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "prfaas_pool_stalls", "Times exports were stopped to free memory", counters.stalls
    )
    yield families.counters(
        "pool_exports", "Exports ended", "outcome",
        {"complete": counters.exports_complete, "failed": counters.exports_failed},
    )  # fmt: skip
    yield families.counters(
        "pool_receptions", "Receptions ended", "outcome",
        {"complete": counters.receptions_complete, "failed": counters.receptions_failed},
    )  # fmt: skip
    yield families.counters(
        "pool_imports", "Imports answered", "outcome",
        {"ready": counters.imports_ready, "failed": counters.imports_failed},
    )  # fmt: skip
    yield families.counters(
        "pool_exported_bytes", "KV bytes engines handed over", "path",
        {"local": counters.exported_bytes_local, "link": counters.exported_bytes_link},
    )  # fmt: skip
    yield CounterMetricFamily(
        "prfaas_pool_received_bytes", "KV bytes stored, each counted once",
        counters.received_bytes,
    )  # fmt: skip


def _links(states: Sequence[LinkState]) -> Iterator[Metric]:
    for make, fields in ((families.gauges, _LINK_GAUGES), (families.counters, _LINK_COUNTERS)):
        for field, (name, text) in fields.items():
            yield make(f"link_{name}", text, "peer", {s.peer: getattr(s, field) for s in states})
    limits = {s.peer: s.limit_bytes_per_s for s in states if s.limit_bytes_per_s is not None}
    yield families.gauges("link_limit_bytes_per_second", "Pace set by us", "peer", limits)


def _endpoint(counters: LinkCounters) -> Iterator[Metric]:
    """The receiving side of the link, and who was not let in."""
    yield GaugeMetricFamily(
        "prfaas_link_incoming_connections", "Open connections from peers",
        counters.incoming_connections,
    )  # fmt: skip
    yield GaugeMetricFamily(
        "prfaas_link_workers", "Link workers that carry connections", counters.workers
    )
    yield families.counters(
        "link_turned_away", "Incoming connections refused", "cause", counters.turned_away
    )
    dial_errors = CounterMetricFamily(
        "prfaas_link_dial_errors", "Connections to a peer that failed", labels=["peer", "cause"]
    )
    for name, peer in counters.peers.items():
        for cause, count in peer.dial_errors.items():
            dial_errors.add_metric([name, cause], count)
    yield dial_errors
    yield families.counters(
        "link_connections_lost", "Open connections to a peer that broke", "peer",
        {name: peer.connections_lost for name, peer in counters.peers.items()},
    )  # fmt: skip
    for field, (name, text) in _RECEIVED.items():
        yield CounterMetricFamily(f"prfaas_link_{name}", text, getattr(counters, field))


def _door(door: DoorCounts) -> Iterator[Metric]:
    """Who is connected to the agent's HTTP, and what is carried to its engines."""
    tunnels, book = door.tunnels, door.connections
    yield GaugeMetricFamily("prfaas_agent_tunnels", "Open ways to engines", tunnels.open)
    yield CounterMetricFamily(
        "prfaas_agent_tunnels_opened", "Ways to engines opened", tunnels.opened_total
    )
    yield families.counters(
        "agent_tunnel_bytes", "Bytes carried between gateways and engines", "direction",
        {"to_engines": tunnels.to_engines_bytes, "from_engines": tunnels.from_engines_bytes},
    )  # fmt: skip
    for name, text, counts in (
        ("agent_tunnels_refused", "Ways to engines refused", tunnels.refused),
        ("agent_refused_requests", "What peers may not ask, with the log's audit lines",
         door.refused),
        ("agent_connections_dropped", "HTTP connections that were ended", book.dropped),
    ):  # fmt: skip
        yield families.counters(name, text, "cause", counts)
    yield families.gauges(
        "agent_connections", "HTTP connections, tunnels among the busy ones", "state",
        {state: getattr(book, state) for state in ("strangers", "idle", "busy")},
    )  # fmt: skip


def agent_metrics(
    driver: PoolDriver, link: Link, door: DoorCounts | None = None
) -> CollectorRegistry:
    """The registry behind ``GET /metrics``."""
    registry = CollectorRegistry()
    registry.register(AgentCollector(driver, link, door))
    return registry
