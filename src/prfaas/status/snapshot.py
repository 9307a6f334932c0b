"""A deployment at one moment, as types: what ``prfaas status --json`` prints."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a snapshot's parts."""


class GatewayStatus(Row, frozen=True):
    """``requests``: ended ones by ``route outcome`` since the gateway started."""

    url: str
    up: bool
    ready: bool
    inflight: int
    requests: dict[str, int]
    waiting_tokens: int = 0
    """Of prompts that the scheduler keeps until an engine has a place for them."""
    waiting_for_decode: dict[str, int] = {}
    """PD cluster -> requests that lack nothing but a place in a decode engine."""


class EngineStatus(Row, frozen=True):
    """An engine. ``up``: as the gateway sees it, or as it answers where there is no gateway.
    ``running`` and ``waiting``: requests in vLLM; ``kv_used``: share of its KV cache, 0 to 1; None
    where it does not say. ``cached_blocks``: what the gateway knows its prefix cache to hold."""

    name: str
    machine: str
    role: str
    url: str
    up: bool
    running: int | None
    waiting: int | None
    kv_used: float | None
    cached_blocks: int | None
    draining: bool = False
    """It finishes what it has and takes no more."""
    hit_share: float | None = None
    """Of the prompt tokens it has seen, those that its prefix cache held; 0 to 1."""


class CacheStatus(Row, frozen=True):
    """One tier of an agent's cache of prefixes."""

    tier: str
    used_bytes: int
    size_bytes: int


class MachineStatus(Row, frozen=True):
    """A machine and its agent. ``slots``: of the arena, by state; ``transfers``: open, by side."""

    name: str
    agent: str
    address: str
    up: bool
    engines_registered: int
    slots: dict[str, int]
    slot_bytes: int
    transfers: dict[str, int]
    caches: list[CacheStatus] = []


class ClusterStatus(Row, frozen=True):
    """One cluster, with what runs on its machines."""

    name: str
    kind: str
    machines: list[MachineStatus]
    engines: list[EngineStatus]


class LineStatus(Row, frozen=True):
    """One direction of a line as its senders measure it, all links between their agents together
    (seconds, bytes); a cluster's own network has one name at both ends. ``pairs``: of agents, those
    ``down`` by name. ``limit``: the pace that is set, None for none. ``congestion``: 0 clear to 1
    saturated."""

    source: str
    target: str
    up: bool
    pairs: int
    down: list[str]
    connections: int
    goodput_bytes_per_s: float
    limit_bytes_per_s: float | None
    rtt_s: float
    queued_bytes: int
    congestion: float


class Decision(Row, frozen=True):
    """A request that has ended lately: where it was prefilled and decoded, and why there."""

    request_id: str
    route: str | None
    reason: str | None
    total_tokens: int | None
    cached_tokens: int
    prefill_engine: str | None
    decode_engine: str | None
    first_token_s: float | None
    outcome: str


class Snapshot(Row, frozen=True):
    """``troubles``: what is not as it should be, in words; empty where all is well."""

    at: float
    """Unix seconds."""
    model: str | None
    policy: str
    threshold_tokens: int | None
    """Where the policy has one."""
    searched_thresholds: dict[str, int]
    """PD cluster -> where a threshold would carry most, by the prompts, costs and lines of now."""
    gateway: GatewayStatus
    clusters: list[ClusterStatus]
    lines: list[LineStatus]
    decisions: list[Decision]
    """The newest first; empty where the gateway does not tell them."""
    troubles: list[str]

    @property
    def well(self) -> bool:
        """Whether requests are answered."""
        return self.gateway.ready
