"""A deployment: clusters, their engines and agents, the lines between them, the gateway.

One YAML file describes it; `prfaas up` starts what has no ``url``, every process reads its part.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml, parse_yaml
from prfaas.core.units import parse_bytes, parse_duration, parse_rate, parse_tokens

EngineRole = Literal["prefill", "decode"]
ClusterKind = Literal["prfaas", "pd"]


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of configuration types: an unknown key is an error."""


class EngineConfig(Strict, frozen=True):
    """One vLLM server. Without ``url`` it is started by `prfaas up` on a free port."""

    name: str
    role: EngineRole
    url: str | None = None
    kv_events: str | None = None
    """ZMQ endpoint of the engine's KV events, ``tcp://host:port``; chosen where we start it."""
    kv_events_replay: str | None = None
    cpus: str | None = None
    """Cores the CPU engine is pinned to, as ``VLLM_CPU_OMP_THREADS_BIND`` takes them."""
    max_num_seqs: int = 32
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}


class TlsConfig(Strict, frozen=True):
    ca: str
    cert: str
    key: str


class AgentConfig(Strict, frozen=True):
    """The agent of one machine of the cluster (one per cluster in this version of the file)."""

    name: str
    listen: str = "127.0.0.1:0"
    """Where other agents reach the KV link."""
    admin: str = "127.0.0.1:0"
    """HTTP: health, metrics, transfers, links."""
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
    def arena_bytes(self) -> int:
        return parse_bytes(self.arena)

    @property
    def slot_bytes(self) -> int:
        return parse_bytes(self.slot)


class ClusterConfig(Strict, frozen=True):
    name: str
    kind: ClusterKind
    engines: tuple[EngineConfig, ...]
    agent: AgentConfig


class LinkConfig(Strict, frozen=True):
    """A line from one cluster to another; ``rate`` paces the sender (None: as fast as it goes)."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    rate: str | None = None
    leave_to_others: float = 0.0
    """Share of the line's measured capacity (0 to 0.9) that is left unused."""
    connections: int | None = None
    via: str | None = None
    """``host:port`` to dial instead of the target agent's ``listen``: a tunnel, a forward."""

    @property
    def rate_bytes_per_s(self) -> float | None:
        return None if self.rate is None else parse_rate(self.rate)


class GatewayConfig(Strict, frozen=True):
    listen: str = "127.0.0.1:8000"
    api_keys: tuple[str, ...] = ()
    request_deadline: str = "300 s"
    """From arrival to the first token; a request that cannot make it gets an error."""
    max_body: str = "16 MiB"
    max_inflight_requests: int = 1024

    @property
    def request_deadline_s(self) -> float:
        return parse_duration(self.request_deadline)


class SchedulerConfig(Strict, frozen=True):
    """The routing policy and its parameters (see ``policies/``), and when a route is given up."""

    policy: str = "threshold"
    threshold: str | int = "4K"
    """Uncached tokens above which a prompt is prefilled in a PrfaaS cluster."""
    options: dict[str, float | bool | str] = msgspec.field(default_factory=dict)
    """The policy's own settings (docs/scheduling.md)."""
    bandwidth: Literal["scarce", "abundant"] = "scarce"
    """Whether a longer cached prefix in the other cluster counts (and is sent over the line)."""
    link_grace: str = "2 s"
    """How long a line may be down before the requests that use it take another route."""
    transfer_stall: str = "10 s"
    """After prefill, how long a transfer may make no progress before it is given up; so is one
    whose pace over this time leaves it more than twice as long to go."""
    engine_wait: str = "120 s"
    """How long a request waits for any engine that could answer it to come (back) up."""
    attempt_share: float = 0.5
    """The share of the time left to the deadline that one attempt may use up."""
    max_attempts: int = 8

    @property
    def threshold_tokens(self) -> int:
        return parse_tokens(self.threshold)

    @property
    def link_grace_s(self) -> float:
        return parse_duration(self.link_grace)

    @property
    def transfer_stall_s(self) -> float:
        return parse_duration(self.transfer_stall)

    @property
    def engine_wait_s(self) -> float:
        return parse_duration(self.engine_wait)


class ModelConfig(Strict, frozen=True):
    """What is served. ``path`` None: the tiny model the product makes itself."""

    path: str | None = None
    served_name: str | None = None
    max_model_len: int = 32768
    block_tokens: int = 256
    max_num_batched_tokens: int = 2048
    kv_cache: str = "1 GiB"


class Deployment(Strict, frozen=True):
    clusters: tuple[ClusterConfig, ...]
    links: tuple[LinkConfig, ...] = ()
    model: ModelConfig = ModelConfig()
    gateway: GatewayConfig = GatewayConfig()
    scheduler: SchedulerConfig = SchedulerConfig()

    def cluster(self, name: str) -> ClusterConfig:
        return next(c for c in self.clusters if c.name == name)

    def agent_of_engine(self, engine: str) -> AgentConfig:
        return next(c.agent for c in self.clusters for e in c.engines if e.name == engine)


def load_deployment(path: Path) -> Deployment:
    """Read and validate a deployment file. Raises ConfigError."""
    deployment = load_yaml(path, Deployment)
    validate(deployment, source=str(path))
    return deployment


def parse_deployment(text: bytes | str, *, source: str) -> Deployment:
    """The same from memory (the embedded default, tests)."""
    deployment = parse_yaml(text, Deployment, source=source)
    validate(deployment, source=source)
    return deployment


def validate(deployment: Deployment, *, source: str) -> None:
    """Raise ConfigError for what the types cannot say: names, roles, links, units."""
    clusters = {c.name: c for c in deployment.clusters}
    _unique(source, "cluster", [c.name for c in deployment.clusters])
    _unique(source, "engine", [e.name for c in deployment.clusters for e in c.engines])
    _unique(source, "agent", [c.agent.name for c in deployment.clusters])
    if not any(c.kind == "pd" for c in deployment.clusters):
        raise ConfigError(f"{source}: no cluster of kind 'pd'; nothing could decode")
    for cluster in deployment.clusters:
        _check_cluster(source, cluster)
    for link in deployment.links:
        for end in (link.source, link.target):
            if end not in clusters:
                known = ", ".join(sorted(clusters))
                raise ConfigError(f"{source}: link names cluster {end!r}; known: {known}")
        _ = link.rate_bytes_per_s
    _check_scheduler(source, deployment.scheduler)
    _ = deployment.gateway.request_deadline_s
    parse_bytes(deployment.gateway.max_body)
    parse_bytes(deployment.model.kv_cache)


def _check_scheduler(source: str, scheduler: SchedulerConfig) -> None:
    _ = scheduler.threshold_tokens, scheduler.link_grace_s
    _ = scheduler.transfer_stall_s, scheduler.engine_wait_s
    if not 0 < scheduler.attempt_share <= 1:
        raise ConfigError(f"{source}: scheduler.attempt_share must be above 0 and at most 1")
    if scheduler.max_attempts < 1:
        raise ConfigError(f"{source}: scheduler.max_attempts must be at least 1")


def _check_cluster(source: str, cluster: ClusterConfig) -> None:
    roles = [e.role for e in cluster.engines]
    if cluster.kind == "prfaas" and "decode" in roles:
        raise ConfigError(
            f"{source}: PrfaaS cluster {cluster.name!r} only prefills, no decode role"
        )
    if cluster.kind == "pd" and "decode" not in roles:
        raise ConfigError(
            f"{source}: PD cluster {cluster.name!r} needs an engine with role: decode"
        )
    agent = cluster.agent
    if agent.arena_bytes % agent.slot_bytes or agent.arena_bytes < 4 * agent.slot_bytes:
        raise ConfigError(
            f"{source}: agent {agent.name!r}: arena {agent.arena} must be a multiple of "
            f"slot {agent.slot} and hold at least 4 slots"
        )
    if not 0 <= agent.dscp <= 63:
        raise ConfigError(f"{source}: agent {agent.name!r}: dscp {agent.dscp} is not in 0..63")
    if agent.tls is not None and agent.plaintext:
        raise ConfigError(f"{source}: agent {agent.name!r}: tls and plaintext exclude each other")


def _unique(source: str, what: str, names: list[str]) -> None:
    doubled = {n for n in names if names.count(n) > 1}
    if doubled:
        raise ConfigError(f"{source}: {what} name used twice: {', '.join(sorted(doubled))}")
