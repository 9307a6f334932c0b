"""Where processes of a deployment may stand on a Ray cluster, and what they take of it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from prfaas.core.addresses import parse_address, parse_url, stays_here
from prfaas.core.deployment import (
    AgentConfig,
    Deployment,
    EngineConfig,
    GatewayConfig,
    MachineConfig,
)
from prfaas.core.errors import ConfigError
from prfaas.render.groups import gpus_of

LABEL = "prfaas.io/cluster"
"""The label of a Ray node that says which cluster of the deployment it belongs to."""
_AGENT_CPUS, _ENGINE_CPUS, _GATEWAY_CPUS = 0.1, 0.5, 0.1
"""Shares by which Ray counts what it places, no limits. An engine on GPUs takes a core for each."""
_OF_NODE = 0.001
"""Of ``node:ADDRESS``, a resource that every Ray node has of itself."""
_EVERYWHERE = frozenset({"0.0.0.0", "::"})

Kind = Literal["agent", "engine", "gateway"]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One process. ``group`` None: anywhere in its cluster, else in ``bundle`` of that group."""

    name: str
    kind: Kind
    cluster: str
    resources: dict[str, float]
    group: str | None = None
    bundle: int = 0


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A machine: processes that share a node's memory, and so a node."""

    name: str
    cluster: str
    bundles: tuple[dict[str, float], ...]

    @property
    def needs(self) -> dict[str, float]:
        """Of the node, all together."""
        found: dict[str, float] = {}
        for bundle in self.bundles:
            for resource, amount in bundle.items():
                found[resource] = found.get(resource, 0.0) + amount
        return found


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """All of a deployment."""

    groups: tuple[Group, ...]
    processes: tuple[Placed, ...]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A living node of the Ray cluster: its label `LABEL`, None without one, and all it has."""

    cluster: str | None
    resources: Mapping[str, float]


def follows_node(address: str) -> bool:
    """Whether ``host:port`` means the node that the process stands on, whichever that is: every
    interface, or a port that is still to be chosen. Else the file's address is meant as it is."""
    host, port = parse_address(address)
    return port == 0 or host in _EVERYWHERE


def placement(deployment: Deployment, *, on_gpus: Collection[str]) -> Placement:
    """Every machine on one node of its cluster, each gateway in the cluster that it is near.
    Machines with an ``external`` agent run elsewhere.

    ``on_gpus``: clusters whose engines take GPUs. Raises ConfigError for what cannot be placed.
    """
    groups, processes = [], []
    for cluster in deployment.clusters:
        for machine in cluster.machines:
            if machine.agent.external:
                continue
            parts: list[AgentConfig | EngineConfig] = [machine.agent, *machine.engines]
            bundles = [_takes(part, on_gpus=cluster.name in on_gpus) for part in parts]
            host = _own_host(machine)
            if host is not None:
                bundles[0][f"node:{host}"] = _OF_NODE
            groups.append(Group(name=machine.name, cluster=cluster.name, bundles=tuple(bundles)))
            processes += [
                Placed(
                    name=part.name,
                    kind="agent" if isinstance(part, AgentConfig) else "engine",
                    cluster=cluster.name,
                    resources=bundles[at],
                    group=machine.name,
                    bundle=at,
                )
                for at, part in enumerate(parts)
            ]
    first_pd = next(c.name for c in deployment.clusters if c.kind == "pd")
    processes += [_gateway(gateway, first_pd) for gateway in deployment.gateways]
    return Placement(groups=tuple(groups), processes=tuple(processes))


def refuse_too_small(wanted: Placement, nodes: Collection[Node]) -> None:
    """Raise ConfigError where no living node could ever hold a machine or gateway, by its label and
    all it has: Ray would wait for one for ever."""
    wants = [(f"machine {g.name!r}", g.cluster, g.needs) for g in wanted.groups]
    wants += [
        (f"gateway {p.name!r}", p.cluster, p.resources) for p in wanted.processes if p.group is None
    ]
    for what, cluster, needs in wants:
        there = [node for node in nodes if node.cluster == cluster]
        if not any(_fits(needs, node) for node in there):
            asked = ", ".join(f"{key} {amount:g}" for key, amount in needs.items())
            raise ConfigError(
                f"{what} needs a Ray node with the label {LABEL}={cluster} and {asked}; "
                f"{len(there)} of {len(nodes)} nodes have the label, none has that much. Start "
                f"one: ray start --address=HEAD:6379 --labels={LABEL}={cluster}"
            )


def clusters_with_gpus(nodes: Collection[Node]) -> frozenset[str]:
    """Clusters of which a node has a GPU."""
    return frozenset(n.cluster for n in nodes if n.cluster and n.resources.get("GPU", 0.0) > 0)


def _fits(needs: Mapping[str, float], node: Node) -> bool:
    return all(node.resources.get(key, 0.0) >= amount for key, amount in needs.items())


def _gateway(gateway: GatewayConfig, first_pd: str) -> Placed:
    takes = {"CPU": _GATEWAY_CPUS}
    host = _fixed_host(gateway.listen)
    if host is not None:
        takes[f"node:{host}"] = _OF_NODE
    return Placed(
        name=gateway.name, kind="gateway", cluster=gateway.near or first_pd, resources=takes
    )


def _takes(part: EngineConfig | AgentConfig, *, on_gpus: bool) -> dict[str, float]:
    if isinstance(part, AgentConfig):
        return {"CPU": _AGENT_CPUS, "memory": float(part.arena_bytes)}
    if "CUDA_VISIBLE_DEVICES" in part.env:
        raise ConfigError(
            f"engine {part.name!r}: env: CUDA_VISIBLE_DEVICES: Ray gives an engine its GPUs, as "
            "many as its ranks; leave it out"
        )
    gpus = float(gpus_of(part))
    return {"CPU": gpus, "GPU": gpus} if on_gpus else {"CPU": _ENGINE_CPUS}


def _own_host(machine: MachineConfig) -> str | None:
    """The one address of a machine that the file names, where it does."""
    agent = machine.agent
    urls = [engine.url for engine in machine.engines if engine.url is not None]
    hosts = [_fixed_host(agent.listen), _fixed_host(agent.admin)]
    hosts += [_named(parse_url(url).host) for url in urls]
    return next((host for host in hosts if host is not None), None)


def _fixed_host(address: str) -> str | None:
    return None if follows_node(address) else _named(parse_address(address).host)


def _named(host: str) -> str | None:
    """None for what every node has."""
    return None if host in _EVERYWHERE or stays_here(host) else host
