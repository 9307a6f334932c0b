"""Where processes of a deployment may stand on a Ray cluster, and what they take of it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from prfaas.core.addresses import is_everywhere, parse_address, parse_url, stays_here
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
_ROUNDING = 1e-6
"""Shares are no whole numbers, and their sums are rounded."""

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
    """Where all processes of a deployment stand."""

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
    return port == 0 or is_everywhere(host)


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
    alone = [("machine", g.name, g.cluster, g.needs) for g in wanted.groups]
    alone += [
        ("gateway", p.name, p.cluster, p.resources) for p in wanted.processes if p.group is None
    ]
    for what, name, cluster, needs in alone:
        if told := _lacking(what, [name], cluster, needs, nodes):
            raise ConfigError(told)


def too_few(wanted: Placement, nodes: Collection[Node]) -> list[str]:
    """What nodes are to be added so that machines of which each would fit do so all at once. For
    machines that are alike that is exact; of others some may wait all the same."""
    found: dict[str, None] = {}
    for group in wanted.groups:
        as_large = [
            other.name
            for other in wanted.groups
            if other.cluster == group.cluster and _times(group.needs, other.needs)
        ]
        if told := _lacking("machine", as_large, group.cluster, group.needs, nodes):
            found[told] = None
    return list(found)


def _lacking(
    what: str,
    names: Sequence[str],
    cluster: str,
    needs: Mapping[str, float],
    nodes: Collection[Node],
) -> str:
    """Empty where all of them have a place."""
    there = [node for node in nodes if node.cluster == cluster]
    room = sum(_times(needs, node.resources) for node in there)
    if room >= len(names):
        return ""
    who = f"{what} {names[0]!r} needs"
    has = "none has that much"
    if room:
        who = f"{what}s {', '.join(map(repr, names))} need each"
        has = f"with room for {room} of {len(names)}"
    asked = ", ".join(f"{key} {amount:g}" for key, amount in needs.items())
    return (
        f"{who} a Ray node with the label {LABEL}={cluster} and {asked}; "
        f"{len(there)} of {len(nodes)} nodes have the label, {has}. Start "
        f"one: ray start --address=HEAD:6379 --labels={LABEL}={cluster}"
    )


def without_gpus(deployment: Deployment) -> Deployment:
    """The same without what engines' GPUs are called: Ray gives an engine its own, as many."""

    def machine(one: MachineConfig) -> MachineConfig:
        engines = tuple(msgspec.structs.replace(engine, gpus=None) for engine in one.engines)
        return msgspec.structs.replace(one, engines=engines)

    return deployment.with_machines(machine)


def clusters_with_gpus(nodes: Collection[Node]) -> frozenset[str]:
    """Clusters of which a node has a GPU."""
    return frozenset(n.cluster for n in nodes if n.cluster and n.resources.get("GPU", 0.0) > 0)


def _times(needs: Mapping[str, float], there: Mapping[str, float]) -> int:
    """How often ``there`` has all of that."""
    return int(min(there.get(key, 0.0) / amount for key, amount in needs.items()) + _ROUNDING)


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
    return None if is_everywhere(host) or stays_here(host) else host
