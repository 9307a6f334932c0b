"""A deployment: clusters, their engines and agents, the links between them, the gateway.

One YAML file describes it; `prfaas up` starts what has no ``url``, every process reads its part.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict, load_yaml, naming, parse_yaml
from prfaas.core.units import parse_bytes, parse_duration, parse_rate, parse_tokens

EngineRole = Literal["prefill", "decode"]
ClusterKind = Literal["prfaas", "pd"]

RESERVED_NAMES = frozenset({"gateway", "plain-engine"})
"""What `prfaas up` and `prfaas demo` call processes that are neither engines nor agents of the
file."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
ProcessName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
"""Logs, sockets and sessions are called by it."""


class EngineConfig(Strict, frozen=True):
    """One vLLM server. Without ``url`` it is started by `prfaas up` on a free port."""

    name: ProcessName
    role: EngineRole
    url: str | None = None
    kv_events: str | None = None
    """ZMQ endpoint of the engine's KV events, ``tcp://host:port``; chosen where we start it."""
    kv_events_replay: str | None = None
    cpus: str | None = None
    """Cores the CPU engine is pinned to, as ``VLLM_CPU_OMP_THREADS_BIND`` takes them."""
    gpus: str | None = None
    """GPUs the engine sees, as ``CUDA_VISIBLE_DEVICES`` takes them; chosen where we start it."""
    gpu_memory_share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Of each of its GPUs, as ``--gpu-memory-utilization`` takes it; chosen where we start it."""
    max_num_seqs: Positive = 32
    args: tuple[str, ...] = ()
    env: dict[str, str] = msgspec.field(default_factory=dict)


class TlsConfig(Strict, frozen=True):
    """The PEM files an agent shows and trusts, as `prfaas certs` makes them."""

    ca: str
    cert: str
    key: str


class AgentConfig(Strict, frozen=True):
    """The agent of one machine of the cluster (one per cluster in this version of the file)."""

    name: ProcessName
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
        """Bytes of shared memory."""
        return parse_bytes(self.arena)

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return parse_bytes(self.slot)


class ClusterConfig(Strict, frozen=True):
    """Engines that share an agent. A PrfaaS cluster only prefills; a PD cluster can serve alone."""

    name: str
    kind: ClusterKind
    engines: tuple[EngineConfig, ...]
    agent: AgentConfig


class LinkConfig(Strict, frozen=True):
    """The KV link from one cluster's agent to another's, and how much of the line it may use.

    ``rate`` paces it (None: as fast as the line goes).
    """

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    rate: str | None = None
    leave_to_others: Annotated[float, msgspec.Meta(ge=0, le=0.9)] = 0.0
    """Share of the line's measured capacity that is left unused."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    via: str | None = None
    """``host:port`` to dial instead of the target agent's ``listen``: a tunnel, a forward."""

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Payload bytes per second, None: as fast as the line goes. Raises ConfigError."""
        return None if self.rate is None else parse_rate(self.rate)


class GatewayConfig(Strict, frozen=True):
    """The OpenAI endpoint."""

    listen: str = "127.0.0.1:8000"
    api_keys: tuple[str, ...] = ()
    operator_keys: tuple[str, ...] = ()
    """Who carries one of them may drain engines; without any only this machine may."""
    request_deadline: str = "300 s"
    """From arrival to the first token; a request that cannot make it gets an error."""
    max_body: str = "16 MiB"
    max_inflight_requests: Positive = 1024
    drain: str = "25 s"
    """How long answers under way may go on after SIGTERM. Below the 30 s after which Kubernetes
    kills, so that what is cut can still be told so."""

    @property
    def drain_s(self) -> float:
        """``drain`` in seconds. Raises ConfigError."""
        return parse_duration(self.drain)

    @property
    def request_deadline_s(self) -> float:
        """Seconds. Raises ConfigError."""
        return parse_duration(self.request_deadline)


class SchedulerConfig(Strict, frozen=True):
    """The routing policy (see ``policies/``) with its options, and when a route is given up.

    Which options a policy has, and their defaults, is said once, beside the policy; one that it
    does not have is refused when the policy is made. ``threshold`` and ``bandwidth`` are options
    that may stand outside ``options``, for short.
    """

    policy: str = "threshold"
    threshold: str | int | None = None
    bandwidth: Literal["scarce", "abundant"] | None = None
    options: dict[str, float | bool | str] = msgspec.field(default_factory=dict)
    link_grace: str = "2 s"
    """How long a link may be down before the requests that use it take another route."""
    transfer_stall: str = "10 s"
    """After prefill, how long a transfer may make no progress before it is given up; so is one
    whose pace over this time leaves it more than twice as long to go."""
    engine_wait: str = "120 s"
    """How long a request waits for any engine that could answer it to come (back) up."""
    attempt_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """The share of the time left to the deadline after which another engine is asked, too."""
    max_attempts: Positive = 8

    def policy_options(self) -> dict[str, float | bool | str]:
        """The options that are given, wherever they stand. Raises ConfigError for one that is given
        twice."""
        short: dict[str, str | int | None] = {
            "threshold": self.threshold,
            "bandwidth": self.bandwidth,
        }
        given = {key: value for key, value in short.items() if value is not None}
        for key in given:
            if key in self.options:
                raise ConfigError(f"{key} is written twice; leave it out of options")
        return {**given, **self.options}

    @property
    def link_grace_s(self) -> float:
        """``link_grace`` in seconds. Raises ConfigError."""
        return parse_duration(self.link_grace)

    @property
    def transfer_stall_s(self) -> float:
        """``transfer_stall`` in seconds. Raises ConfigError."""
        return parse_duration(self.transfer_stall)

    @property
    def engine_wait_s(self) -> float:
        """``engine_wait`` in seconds. Raises ConfigError."""
        return parse_duration(self.engine_wait)


class ModelConfig(Strict, frozen=True):
    """What is served. ``path`` None: the tiny model the product makes itself."""

    path: str | None = None
    served_name: str | None = None
    max_model_len: Positive = 32768
    block_tokens: Positive = 256
    max_num_batched_tokens: Positive = 2048
    kv_cache: str = "1 GiB"


class Deployment(Strict, frozen=True):
    """The whole file. `load_deployment` has checked it; `validate` says what it checks."""

    clusters: tuple[ClusterConfig, ...]
    links: tuple[LinkConfig, ...] = ()
    model: ModelConfig = ModelConfig()
    gateway: GatewayConfig = GatewayConfig()
    scheduler: SchedulerConfig = SchedulerConfig()

    def cluster(self, name: str) -> ClusterConfig:
        """The cluster of this name, which must be one."""
        return next(c for c in self.clusters if c.name == name)

    def agent_of_engine(self, engine: str) -> AgentConfig:
        """The agent of the engine's cluster; the engine must be one."""
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
    with naming(source):
        _check_names(deployment)
        if not any(c.kind == "pd" for c in deployment.clusters):
            raise ConfigError("no cluster of kind 'pd'; nothing could decode")
        for cluster in deployment.clusters:
            with naming(f"cluster {cluster.name!r}"):
                _check_roles(cluster)
            with naming(f"agent {cluster.agent.name!r}"):
                _check_agent(cluster.agent)
        _check_links(deployment)
        scheduler, gateway = deployment.scheduler, deployment.gateway
        with naming("scheduler"):
            if scheduler.threshold is not None:
                _ = parse_tokens(scheduler.threshold)
            _ = scheduler.policy_options(), scheduler.link_grace_s, scheduler.engine_wait_s
            _above_zero("transfer_stall", scheduler.transfer_stall_s)
        with naming("gateway"):
            _above_zero("request_deadline", gateway.request_deadline_s)
            _ = gateway.drain_s
            _above_zero("max_body", parse_bytes(gateway.max_body))
        with naming("model"):
            _above_zero("kv_cache", parse_bytes(deployment.model.kv_cache))


def _check_names(deployment: Deployment) -> None:
    """Engines and agents share one space of names, with the processes that have no entry."""
    processes = [e.name for c in deployment.clusters for e in c.engines]
    processes += [c.agent.name for c in deployment.clusters]
    _unique("cluster", [c.name for c in deployment.clusters])
    _unique("engine or agent", processes)
    for name in sorted(RESERVED_NAMES.intersection(processes)):
        raise ConfigError(f"{name!r} names a process of the product's own; choose another name")


def _unique(what: str, names: list[str]) -> None:
    doubled = {n for n in names if names.count(n) > 1}
    if doubled:
        raise ConfigError(f"{what} name used twice: {', '.join(sorted(doubled))}")


def _check_roles(cluster: ClusterConfig) -> None:
    roles = [e.role for e in cluster.engines]
    if cluster.kind == "prfaas" and "decode" in roles:
        raise ConfigError("a PrfaaS cluster only prefills, no decode role")
    if cluster.kind == "pd" and "decode" not in roles:
        raise ConfigError("a PD cluster needs an engine with role: decode")


def _check_agent(agent: AgentConfig) -> None:
    _above_zero("slot", agent.slot_bytes)
    if agent.arena_bytes % agent.slot_bytes or agent.arena_bytes < 4 * agent.slot_bytes:
        raise ConfigError(
            f"arena {agent.arena} must be a multiple of slot {agent.slot} and hold at least 4 slots"
        )
    if not 0 <= agent.dscp <= 63:
        raise ConfigError(f"dscp {agent.dscp} is not in 0..63")
    if agent.tls is not None and agent.plaintext:
        raise ConfigError("tls and plaintext exclude each other")


def _check_links(deployment: Deployment) -> None:
    kinds = {c.name: c.kind for c in deployment.clusters}
    seen: set[tuple[str, str]] = set()
    for link in deployment.links:
        pair = (link.source, link.target)
        with naming(f"link from {link.source!r} to {link.target!r}"):
            for end in pair:
                if end not in kinds:
                    raise ConfigError(f"no cluster {end!r}; known: {', '.join(sorted(kinds))}")
            if link.source == link.target:
                raise ConfigError("inside a cluster no link is needed; leave it out")
            if kinds[link.target] == "prfaas":
                raise ConfigError("a PrfaaS cluster only sends; leave this link out")
            if pair in seen:
                raise ConfigError("written twice; leave one of them out")
            seen.add(pair)
            if link.rate_bytes_per_s is not None:
                _above_zero("rate", link.rate_bytes_per_s)


def _above_zero(key: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise ConfigError(f"{key} must be above zero, not {number:g}")
