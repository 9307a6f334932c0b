"""Where everything is: the part of a deployment file the gateway needs, with every address known.

`prfaas up` fills in what it starts; a gateway on its own is given a file that says all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from prfaas.core.addresses import parse_address, parse_url
from prfaas.core.deployment import AgentConfig, ClusterKind, Deployment, EngineConfig, EngineRole
from prfaas.core.errors import ConfigError


class EngineEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One engine. Without ``kv_events`` the gateway asks the engine where it publishes them."""

    name: str
    cluster: str
    role: EngineRole
    url: str
    kv_events: str | None
    kv_events_replay: str | None


class ClusterEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster with the HTTP address of its agent."""

    name: str
    kind: ClusterKind
    agent: str
    agent_url: str
    engines: tuple[EngineEndpoint, ...]


class Endpoints(msgspec.Struct, frozen=True):
    """``links``: (from cluster, to cluster) of every link."""

    clusters: tuple[ClusterEndpoint, ...]
    links: tuple[tuple[str, str], ...]

    @property
    def engines(self) -> dict[str, EngineEndpoint]:
        """Every engine by its name."""
        return {engine.name: engine for cluster in self.clusters for engine in cluster.engines}

    @property
    def answering(self) -> frozenset[str]:
        """Engines that can answer a client: decode engines, and those that stand in for them."""
        return frozenset(e.name for c in self.clusters if c.kind == "pd" for e in c.engines)

    def cluster_of(self, engine: str) -> ClusterEndpoint:
        """The cluster of a known engine."""
        return next(c for c in self.clusters if any(e.name == engine for e in c.engines))

    def hand_off_pairs(self) -> Iterator[tuple[EngineEndpoint, EngineEndpoint]]:
        """Every (prefill engine, decode engine) that may exchange KV cache."""
        for source in self.clusters:
            for target in self.clusters:
                if source is target or (source.name, target.name) in self.links:
                    for a in source.engines:
                        for b in target.engines:
                            if a.role == "prefill" and b.role == "decode":
                                yield a, b


def resolve(deployment: Deployment, *, source: str) -> Endpoints:
    """All addresses of a deployment. Raises ConfigError naming every one that is missing."""
    missing: list[str] = []
    clusters = tuple(
        ClusterEndpoint(
            name=cluster.name,
            kind=cluster.kind,
            agent=cluster.agent.name,
            agent_url=_agent_url(cluster.agent, missing),
            engines=tuple(_engine(e, cluster.name, missing) for e in cluster.engines),
        )
        for cluster in deployment.clusters
    )
    if missing:
        raise ConfigError(
            f"{source}: the gateway needs every address: {'; '.join(missing)}. 'prfaas up' fills "
            "them in for the processes it starts"
        )
    return Endpoints(clusters, tuple((link.source, link.target) for link in deployment.links))


def _agent_url(agent: AgentConfig, missing: list[str]) -> str:
    address = parse_address(agent.admin, what=f"agent {agent.name!r}: admin")
    if address.port == 0:
        missing.append(f"agent {agent.name!r} has no fixed admin port ('admin: host:port')")
    return f"http://{address}"


def _engine(engine: EngineConfig, cluster: str, missing: list[str]) -> EngineEndpoint:
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
        role=engine.role,
        url=url.rstrip("/"),
        kv_events=engine.kv_events,
        kv_events_replay=engine.kv_events_replay,
    )
