"""What the types of a deployment cannot say: names, roles, addresses, lines, units."""

from __future__ import annotations

import math
import re

from prfaas.core.addresses import is_everywhere, parse_address, parse_url
from prfaas.core.deployment.agents import AgentConfig, SpillConfig, TlsConfig
from prfaas.core.deployment.clusters import ClusterConfig, LanConfig
from prfaas.core.deployment.doubled import check_doubled
from prfaas.core.deployment.engines import EngineConfig
from prfaas.core.deployment.gateways import MOST_WORKERS, GatewayConfig
from prfaas.core.deployment.lines import MOST_CONNECTIONS, Line, lines_of
from prfaas.core.deployment.links import LinkConfig
from prfaas.core.deployment.model import Deployment
from prfaas.core.deployment.scheduling import SchedulerConfig
from prfaas.core.deployment.tenants import DEFAULT_TENANT
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.core.units import parse_bytes, parse_tokens

RESERVED_NAMES = frozenset({"gateway", "plain-engine"})
"""What `prfaas up` and `prfaas demo` call processes that are neither engines nor agents of the
file. A gateway may have the first."""

_LAST_PORT = 65_535
_LEAST_KEEPALIVE_S = 1e-3
"""More often, comments would be all that a gateway does."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+\Z")


def validate(deployment: Deployment) -> None:
    """Raise ConfigError that names the place and says what is wrong there."""
    _check_names(deployment)
    if not any(c.kind == "pd" for c in deployment.clusters):
        raise ConfigError("no cluster of kind 'pd'; nothing could decode")
    for cluster in deployment.clusters:
        with naming(f"cluster {cluster.name!r}"):
            _check_roles(cluster)
            _check_rate(cluster.lan)
        for agent in cluster.agents:
            with naming(f"agent {agent.name!r}"):
                _check_agent(agent)
        for engine in cluster.engines:
            with naming(f"engine {engine.name!r}"):
                _check_addresses(engine)
                _check_ranks(engine)
    check_doubled(deployment)
    _check_links(deployment)
    for line in lines_of(deployment):
        inside = line.source == line.target
        with naming(f"cluster {line.source!r}: lan" if inside else _link_name(line)):
            _check_line(line)
    for gateway in deployment.gateways:
        with naming("gateway" if len(deployment.gateways) == 1 else f"gateway {gateway.name!r}"):
            _check_gateway(gateway, deployment)
    with naming("scheduler"):
        _check_scheduler(deployment.scheduler)
    with naming("model"):
        _above_zero("kv_cache", parse_bytes(deployment.model.kv_cache))


def _check_names(deployment: Deployment) -> None:
    """Engines and agents share one space of names with the other processes. A machine is told from
    both and from clusters, since operators name any of them."""
    processes = [e.name for e in deployment.engines] + [a.name for a in deployment.agents]
    clusters = [c.name for c in deployment.clusters]
    _unique("cluster", clusters)
    _unique("engine or agent", processes)
    gateways = [g.name for g in deployment.gateways]
    taken = RESERVED_NAMES.intersection(processes) | (RESERVED_NAMES - {"gateway"}).intersection(
        gateways
    )
    for name in sorted(taken):
        raise ConfigError(f"{name!r} names a process of the product's own; choose another name")
    # An agent of the name that gateways show would be let ask for all that they may.
    shown = {g.certificate_name or g.name for g in deployment.gateways} - {*gateways}
    _unique("gateway, engine or agent", [*processes, *gateways, *shown])
    machines = [m.name for m in deployment.machines]
    _unique("machine", machines)
    named = [m.name for c in deployment.clusters for m in c.machines if len(c.machines) > 1]
    _unique("machine, cluster, engine or agent", named + clusters + processes, only=named)


def _unique(what: str, names: list[str], *, only: list[str] | None = None) -> None:
    doubled = {n for n in only or names if names.count(n) > 1}
    if doubled:
        raise ConfigError(f"{what} name used twice: {', '.join(sorted(doubled))}")


def _check_ranks(engine: EngineConfig) -> None:
    """Data-parallel ranks have a cache each: the gateway must be able to tell them apart. Stages
    of a pipeline would have to be told apart by agents."""
    if engine.option("--pipeline-parallel-size", "-pp") not in (None, "1"):
        raise ConfigError(
            "--pipeline-parallel-size: pipeline parallelism is not supported, since hand-offs are "
            "told apart by tensor-parallel rank; take --tensor-parallel-size"
        )
    size = engine.option("--data-parallel-size", "-dp")
    alone = ("--data-parallel-rank", "-dpn", "--data-parallel-external-lb", "-dpe")
    if size in (None, "1") or engine.option(*alone) is not None:
        return
    raise ConfigError(
        f"--data-parallel-size {size}: ranks behind one address are not supported, since which "
        "rank's cache holds a prompt could not be told. Write an engine for each rank, with a name "
        "and url of its own: of a dense model without this option, of a mixture of experts with "
        "--data-parallel-rank as well"
    )


def _check_roles(cluster: ClusterConfig) -> None:
    if cluster.pools:
        return  # Planned only: `prfaas.description` knows what instances may do.
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
    if agent.cache_slots * agent.slot_bytes > agent.arena_bytes:
        raise ConfigError(f"cache: size {agent.cache.size} is more than the arena, {agent.arena}")
    if agent.cache.size is not None and 0 < parse_bytes(agent.cache.size) < agent.slot_bytes:
        raise ConfigError(
            f"cache: size {agent.cache.size} is less than a slot, {agent.slot}, and would keep "
            "nothing: say 0 B if that is meant"
        )
    if agent.cache.spill is not None:
        _check_spill(agent, agent.cache.spill)
    if not 0 <= agent.dscp <= 63:
        raise ConfigError(f"dscp {agent.dscp} is not in 0..63")
    if agent.link_workers is not None and not 0 <= agent.link_workers <= 64:
        raise ConfigError(f"link_workers {agent.link_workers} is not in 0..64")
    if agent.tls is not None and agent.plaintext:
        raise ConfigError("tls and plaintext exclude each other")
    _check_names_in("tls", agent.tls)
    for key, address in (("listen", agent.listen), ("admin", agent.admin)):
        _ = parse_address(address, what=key)
    _check_reachable("advertise", agent.advertise)
    _check_reachable("admin_advertise", agent.admin_advertise)


def _check_spill(agent: AgentConfig, spill: SpillConfig) -> None:
    if not spill.path.startswith("/"):
        raise ConfigError(f"cache: spill: path {spill.path!r}: give an absolute path")
    if spill.most_bytes < agent.slot_bytes:
        raise ConfigError(
            f"cache: spill: size {spill.size} is less than a slot, {agent.slot}: nothing fits it"
        )
    if not agent.cache_slots:
        raise ConfigError("cache: spill: size 0 B caches nothing that could go to disk")
    if agent.slot_bytes % 4096:
        raise ConfigError(
            f"cache: spill: slot {agent.slot}: disks want a multiple of 4 KiB, such as 1 MiB"
        )


def _check_addresses(engine: EngineConfig) -> None:
    if engine.url is not None:
        _ = parse_url(engine.url)
    events = {"kv_events": engine.kv_events, "kv_events_replay": engine.kv_events_replay}
    for key, endpoint in events.items():
        if endpoint is not None and "://" not in endpoint:
            raise ConfigError(f"{key} {endpoint!r} is no ZMQ endpoint, for example tcp://host:5557")


def _check_reachable(key: str, address: str | None) -> None:
    """An address that is told to others must be one that they can dial."""
    if address is None:
        return
    host, port = parse_address(address, what=f"{key}:")
    if port == 0 or is_everywhere(host):
        raise ConfigError(
            f"{key} {address!r} cannot be dialled: it needs a host and the port that others see"
        )


def _link_name(link: LinkConfig | Line) -> str:
    return f"link from {link.source!r} to {link.target!r}"


def _check_links(deployment: Deployment) -> None:
    kinds = {c.name: c.kind for c in deployment.clusters}
    seen: set[tuple[str, str]] = set()
    for link in deployment.links:
        pair = (link.source, link.target)
        with naming(_link_name(link)):
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
            _check_rate(link)


def _check_rate(config: LinkConfig | LanConfig) -> None:
    if config.rate_bytes_per_s is not None:
        _above_zero("rate", config.rate_bytes_per_s)


def _check_line(line: Line) -> None:
    pairs = len(line.pairs)
    if line.connections is not None and line.connections < pairs:
        raise ConfigError(
            f"connections {line.connections} are too few for its {pairs} pairs of agents: "
            "each needs one"
        )
    if line.connections is not None and line.connections > MOST_CONNECTIONS * max(1, pairs):
        raise ConfigError(
            f"connections {line.connections} are too many: at most {MOST_CONNECTIONS} for each of "
            f"its {pairs} pairs of agents"
        )
    receivers = {agent.name for agent in line.receivers}
    if isinstance(line.via, str):
        _check_reachable("via", line.via)
    if isinstance(line.via, dict):
        for name, address in line.via.items():
            if name not in receivers:
                known = ", ".join(sorted(receivers))
                raise ConfigError(f"via: no agent {name!r} decodes there; known: {known}")
            _check_reachable(f"via: {name}", address)
    elif line.via is not None and len(receivers) > 1:
        raise ConfigError(
            f"via is one address for {len(receivers)} agents; write one for each: "
            f"via: {{{', '.join(f'{name}: HOST:PORT' for name in sorted(receivers))}}}"
        )


def _check_names_in(key: str, tls: TlsConfig | None) -> None:
    """By one name for all, any of them could be any."""
    if tls is not None and "{agent}" not in tls.names:
        raise ConfigError(f"{key}: names must have {{agent}} where the agent's name stands")


def _check_gateway(gateway: GatewayConfig, deployment: Deployment) -> None:
    _check_names_in("agent_tls", gateway.agent_tls)
    _above_zero("request_deadline", gateway.request_deadline_s)
    if gateway.keepalive is not None:
        _above_zero("keepalive", gateway.keepalive_s)
        if gateway.keepalive_s < _LEAST_KEEPALIVE_S:
            raise ConfigError(f"keepalive {gateway.keepalive}: write 1 ms or more, or null")
    _above_zero("max_body", parse_bytes(gateway.max_body))
    _ = gateway.drain_s, gateway.max_wait_s
    _above_zero("max_bodies", gateway.max_bodies_bytes)
    _above_zero("max_waiting_tokens", gateway.most_waiting_tokens)
    _ = parse_address(gateway.listen, what="listen")
    _check_reachable("advertise", gateway.advertise)
    _check_tenants(gateway)
    if gateway.admin is not None:
        _ = parse_address(gateway.admin, what="admin")
        if gateway.admin == gateway.listen:
            raise ConfigError("admin is where it listens, too; give it a port of its own")
    check_workers(gateway)
    for origin in gateway.cors_origins:
        if origin != "*" and not _ORIGIN.match(origin):
            raise ConfigError(f"cors_origins: {origin!r} is none, for example https://app.example")
    near = [c.name for c in deployment.clusters if c.kind == "pd"]
    if gateway.near is not None and gateway.near not in near:
        raise ConfigError(f"near: no PD cluster {gateway.near!r}; known: {', '.join(near)}")


def check_workers(gateway: GatewayConfig) -> None:
    """Raise ConfigError where operators could not reach each of them."""
    if gateway.workers == 1:
        return
    if not 1 <= gateway.workers <= MOST_WORKERS:
        raise ConfigError(f"write 1 to {MOST_WORKERS}")
    first = None if gateway.admin is None else parse_address(gateway.admin, what="admin")
    if first is None or not first.port:
        raise ConfigError(
            f"{gateway.workers} workers need an address for operators, at which the first is "
            "asked and at the ports after it the others: write admin, for example '127.0.0.1:9100'"
        )
    last, listen = first.port + gateway.workers - 1, parse_address(gateway.listen, what="listen")
    if last > _LAST_PORT:
        raise ConfigError(f"admin: the last of {gateway.workers} workers would be at port {last}")
    if first.port <= listen.port <= last:
        raise ConfigError(
            f"admin: ports {first.port} to {last} are the workers'; listen has one of them"
        )


def _check_tenants(gateway: GatewayConfig) -> None:
    _unique("tenant", [tenant.name for tenant in gateway.tenants])
    for tenant in gateway.tenants:
        with naming(f"tenant {tenant.name!r}"):
            if tenant.name == DEFAULT_TENANT:
                raise ConfigError("that is who carries gateway.api_keys; choose another name")
            if not tenant.keys:
                raise ConfigError("give it keys: api_keys_file, api_keys_env or api_keys")
            for key, number in (
                ("tokens_per_min", tenant.tokens_per_s),
                ("max_tokens", tenant.most_tokens),
            ):
                if number is not None:
                    _above_zero(key, number)


def _check_scheduler(scheduler: SchedulerConfig) -> None:
    if scheduler.threshold is not None:
        _ = parse_tokens(scheduler.threshold)
    _ = scheduler.policy_options(), scheduler.link_grace_s, scheduler.engine_wait_s
    _above_zero("transfer_stall", scheduler.transfer_stall_s)


def _above_zero(key: str, number: float) -> None:
    if not 0 < number < math.inf:
        raise ConfigError(f"{key} must be above zero, not {number:g}")
