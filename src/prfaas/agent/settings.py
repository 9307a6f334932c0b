"""What a deployment file says to one agent."""

from __future__ import annotations

from pathlib import Path

import msgspec

from prfaas.core.addresses import parse_address
from prfaas.core.deployment import AgentConfig, ClusterConfig, Deployment
from prfaas.core.errors import ConfigError
from prfaas.link.tcp.config import (
    PeerConfig,
    Plaintext,
    TcpLinkConfig,
)
from prfaas.tls.files import TlsFiles


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``link`` is None where no link of the deployment ends here. ``export_slots``: see
    `pool.slots`; an agent without a decode engine receives nothing and lends every slot."""

    name: str
    arena_bytes: int
    slot_bytes: int
    export_slots: int
    engines: frozenset[str]
    socket: Path
    admin: str
    link: TcpLinkConfig | None


def settings_for(deployment: Deployment, name: str, *, socket: Path | None = None) -> AgentSettings:
    """The part of agent ``name``. ``socket`` goes before the file's.

    Raises ConfigError for an unknown agent, missing socket or security, an unreachable peer.
    """
    cluster = _cluster_of(deployment, name)
    agent = cluster.agent
    if socket is None and agent.socket is None:
        raise ConfigError(f"agent {name!r}: say where engines connect: socket: PATH, or --socket")
    parse_address(agent.admin)
    slot_count = agent.arena_bytes // agent.slot_bytes
    receives = any(engine.role == "decode" for engine in cluster.engines)
    return AgentSettings(
        name=name,
        arena_bytes=agent.arena_bytes,
        slot_bytes=agent.slot_bytes,
        export_slots=max(1, slot_count // 4) if receives else slot_count,
        engines=frozenset(engine.name for engine in cluster.engines),
        socket=socket or Path(agent.socket or ""),
        admin=agent.admin,
        link=_link(deployment, cluster),
    )


def _cluster_of(deployment: Deployment, name: str) -> ClusterConfig:
    for cluster in deployment.clusters:
        if cluster.agent.name == name:
            return cluster
    known = ", ".join(sorted(cluster.agent.name for cluster in deployment.clusters))
    raise ConfigError(f"no agent {name!r} in the deployment; known: {known}")


def _link(deployment: Deployment, cluster: ClusterConfig) -> TcpLinkConfig | None:
    outgoing = [link for link in deployment.links if link.source == cluster.name]
    incoming = [link for link in deployment.links if link.target == cluster.name]
    if not outgoing and not incoming:
        return None
    peers = {}
    for link in outgoing:
        peer = deployment.cluster(link.target).agent
        address = link.via or peer.listen
        if parse_address(address).port == 0:
            raise ConfigError(f"agent {peer.name!r}: its address {address!r} needs a fixed port")
        peers[peer.name] = PeerConfig(
            address=address,
            rate_bytes_per_s=link.rate_bytes_per_s,
            leave_to_others=link.leave_to_others,
            connections=link.connections,
        )
    return TcpLinkConfig(
        name=cluster.agent.name,
        security=_security(cluster.agent),
        listen=cluster.agent.listen,
        peers=peers,
        accept_from=frozenset(deployment.cluster(link.source).agent.name for link in incoming),
        dscp=cluster.agent.dscp,
    )


def _security(agent: AgentConfig) -> TlsFiles | Plaintext:
    if agent.tls is not None:
        return TlsFiles(Path(agent.tls.ca), Path(agent.tls.cert), Path(agent.tls.key))
    if agent.plaintext:
        return Plaintext()
    raise ConfigError(
        f"agent {agent.name!r}: give tls: {{ca, cert, key}} ('prfaas certs' makes them), "
        "or plaintext: true for a line that is protected otherwise"
    )
