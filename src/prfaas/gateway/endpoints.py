"""Where everything is: the part of a deployment file the gateway needs, with every address known.

`prfaas up` fills in what it starts; a gateway on its own is given a file that says all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import msgspec

from prfaas.core.addresses import parse_address, parse_url
from prfaas.core.deployment import (
    AgentConfig,
    ClusterConfig,
    ClusterKind,
    Deployment,
    EngineConfig,
    EngineRole,
    Line,
    MachineConfig,
    is_carried,
    lines_of,
)
from prfaas.core.errors import ConfigError


class EngineEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. Without ``kv_events`` the gateway asks the engine where it publishes them."""

    name: str
    cluster: str
    machine: str
    agent: str
    """Of its machine."""
    role: EngineRole
    url: str
    kv_events: str | None
    kv_events_replay: str | None
    events_at_agent: bool = False
    """Its agent follows them, and tells of its cache without a token."""
    carried: bool = False
    """It is reached through its agent, at an address of its machine."""


class AgentEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One machine's agent with its HTTP address."""

    name: str
    cluster: str
    machine: str
    url: str


class ClusterEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster with all that its machines run."""

    name: str
    kind: ClusterKind
    agents: tuple[AgentEndpoint, ...]
    engines: tuple[EngineEndpoint, ...]


class Endpoints(msgspec.Struct, dict=True):
    """``lines``: every line over which agents send to each other. Shared by all parts of a gateway,
    and changed only as a whole (`become`)."""

    clusters: tuple[ClusterEndpoint, ...]
    lines: tuple[Line, ...]

    @cached_property
    def engines(self) -> dict[str, EngineEndpoint]:
        """Every engine by its name."""
        return {engine.name: engine for cluster in self.clusters for engine in cluster.engines}

    @cached_property
    def agents(self) -> dict[str, AgentEndpoint]:
        """Every agent by its name."""
        return {agent.name: agent for cluster in self.clusters for agent in cluster.agents}

    @cached_property
    def answering(self) -> frozenset[str]:
        """Engines that can answer a client: decode engines, and those that stand in for them."""
        return frozenset(e.name for c in self.clusters if c.kind == "pd" for e in c.engines)

    def engines_at(self, agent: str) -> Sequence[str]:
        """The names of the engines on an agent's machine."""
        return self._by_agent.get(agent, ())

    @cached_property
    def _by_agent(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for engine in self.engines.values():
            found.setdefault(engine.agent, []).append(engine.name)
        return found

    def become(self, other: Endpoints) -> None:
        """Say from now on what ``other`` says: the deployment has changed."""
        self.clusters, self.lines = other.clusters, other.lines
        self.__dict__.clear()  # The cached properties.

    def keeping(self, old: Endpoints, engines: Collection[str]) -> Endpoints:
        """The same with some engines of ``old``, their agents and clusters, which are on their way
        out."""
        there = {cluster.name: cluster for cluster in self.clusters}
        for cluster in old.clusters:
            left = [e for e in cluster.engines if e.name in engines and e.name not in self.engines]
            if not left:
                continue
            now = there.get(cluster.name, msgspec.structs.replace(cluster, agents=(), engines=()))
            known = {agent.name for agent in now.agents}
            needed = {engine.agent for engine in left} - known
            there[cluster.name] = msgspec.structs.replace(
                now,
                agents=(*now.agents, *(a for a in cluster.agents if a.name in needed)),
                engines=(*now.engines, *left),
            )
        return Endpoints(tuple(there.values()), self.lines)

    @cached_property
    def joined(self) -> frozenset[tuple[str, str]]:
        """(from cluster, to cluster) wherever KV cache may travel: over a line, or inside one."""
        inside = {(cluster.name, cluster.name) for cluster in self.clusters}
        return frozenset(inside | {(line.source, line.target) for line in self.lines})


def resolve(deployment: Deployment, *, source: str) -> Endpoints:
    """All addresses of a deployment. Raises ConfigError naming every one that is missing."""
    missing: list[str] = []
    clusters = tuple(_cluster(cluster, missing) for cluster in deployment.clusters)
    if missing:
        raise ConfigError(
            f"{source}: the gateway needs every address: {'; '.join(missing)}. 'prfaas up' fills "
            "them in for the processes it starts"
        )
    return Endpoints(clusters, lines_of(deployment))


def _cluster(cluster: ClusterConfig, missing: list[str]) -> ClusterEndpoint:
    return ClusterEndpoint(
        name=cluster.name,
        kind=cluster.kind,
        agents=tuple(
            AgentEndpoint(
                name=machine.agent.name,
                cluster=cluster.name,
                machine=machine.name,
                url=_agent_url(machine.agent, missing),
            )
            for machine in cluster.machines
        ),
        engines=tuple(
            _engine(engine, cluster.name, machine, missing)
            for machine in cluster.machines
            for engine in machine.engines
        ),
    )


def _agent_url(agent: AgentConfig, missing: list[str]) -> str:
    address = parse_address(agent.admin_address, what=f"agent {agent.name!r}: admin")
    if address.port == 0:
        missing.append(f"agent {agent.name!r} has no fixed admin port ('admin: host:port')")
    return agent.admin_url


def _engine(
    engine: EngineConfig, cluster: str, machine: MachineConfig, missing: list[str]
) -> EngineEndpoint:
    url = engine.url or ""
    if not url:
        missing.append(f"engine {engine.name!r} has no url")
    elif not url.startswith(("http://", "https://")):
        missing.append(f"engine {engine.name!r}: url {url!r} must start with http:// or https://")
    else:
        parse_url(url, what=f"engine {engine.name!r}: url")
    return EngineEndpoint(
        name=engine.name,
        cluster=cluster,
        machine=machine.name,
        agent=machine.agent.name,
        role=engine.role,
        url=url.rstrip("/"),
        kv_events=engine.kv_events,
        kv_events_replay=engine.kv_events_replay,
        events_at_agent=machine.agent.tls is not None,
        carried=is_carried(engine, machine.agent),
    )


def check_apart(files: Mapping[str, Endpoints]) -> None:
    """Raise ConfigError where two deployments name one engine's or agent's address: each would plan
    with all of it. ``files``: by what each was read from."""
    found: dict[str, str] = {}
    for file, endpoints in files.items():
        # An address that an agent speaks to for others is of that agent's machine alone.
        engines = [one for one in endpoints.engines.values() if not one.carried]
        for what, each in (("agent", endpoints.agents.values()), ("engine", engines)):
            for one in each:
                if (other := found.setdefault(one.url, file)) != file:
                    raise ConfigError(
                        f"{file}: {what} {one.name!r} at {one.url} is in {other} too: engines of "
                        "one model and their agents are of one deployment"
                    )
