"""How much the agents of a deployment cache, as its file says or as is planned."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from prfaas.core.deployment import AgentConfig, ClusterConfig, Deployment
from prfaas.core.errors import ConfigError
from prfaas.core.planned import PlannedPool
from prfaas.core.strict import naming
from prfaas.core.units import parse_bytes, parse_tokens
from prfaas.workload.machine_cache import MachineModel


def memory_bytes(agent: AgentConfig) -> int:
    """Of its arena at most so much is cached: what it says, else half."""
    arena = parse_bytes(agent.arena)
    return arena // 2 if agent.cache.size is None else min(arena, parse_bytes(agent.cache.size))


def disk_bytes(agent: AgentConfig) -> int:
    """What it caches on disk at most. What is in memory is there, too."""
    return 0 if agent.cache.spill is None else agent.cache.spill.most_bytes


def check_caches(cluster: ClusterConfig) -> None:
    """Raises ConfigError for ``prefix_cache: agents`` of a cluster that has no machines, for sizes
    that are none, and for other text than a number of tokens."""
    with naming("prefix_cache"):
        if cluster.prefix_cache == "agents" and not cluster.machines:
            raise ConfigError(
                "agents needs machines with agents; of instances write sizes, for example "
                "prefix_cache: {memory: 64 GiB, disk: 1 TB}"
            )
        if isinstance(cluster.prefix_cache, PlannedPool):
            _sizes(cluster.prefix_cache)
        elif cluster.prefix_cache not in ("agents", "unbounded"):
            parse_tokens(cluster.prefix_cache)


def machines_of(deployment: Deployment, engines: Mapping[str, str]) -> tuple[MachineModel, ...]:
    """The machines that cache one by one, with those engines that there are.

    Args:
        engines: name -> its cluster.
    """
    found = []
    for cluster in deployment.clusters:
        if cluster.has_agents:
            own = [name for name, place in engines.items() if place == cluster.name]
            found += _machines(cluster, own)
    return tuple(found)


def _machines(cluster: ClusterConfig, engines: list[str]) -> list[MachineModel]:
    planned = cluster.prefix_cache
    if not isinstance(planned, PlannedPool):
        return [
            MachineModel(
                machine.name,
                cluster.name,
                tuple(e.name for e in machine.engines if e.name in engines),
                memory_bytes(machine.agent),
                answers=machine.agent.cache.answers,
                disk_bytes=disk_bytes(machine.agent),
                slot_bytes=machine.agent.slot_bytes,
            )
            for machine in cluster.machines
        ]
    memory, disk = _sizes(planned)
    slots = {m.name: m.agent.slot_bytes for m in cluster.machines}
    places = {
        m.name: tuple(e.name for e in m.engines if e.name in engines) for m in cluster.machines
    }
    usual = AgentConfig(name="planned").slot_bytes
    return [
        MachineModel(
            name,
            cluster.name,
            own,
            memory,
            answers=planned.answers,
            disk_bytes=disk,
            slot_bytes=slots.get(name, usual),
        )
        for name, own in (places or {name: (name,) for name in engines}).items()
    ]


def _sizes(planned: PlannedPool) -> tuple[int, int]:
    """Bytes in memory and on disk. Raises ConfigError."""
    sizes = []
    for name in ("memory", "disk"):
        with naming(name):
            sizes.append(parse_bytes(str(getattr(planned, name))))
    memory, disk = sizes
    if not memory:
        raise ConfigError(
            "memory: 0 B caches nothing, also on disk, which is read to memory first; write more, "
            "or leave prefix_cache out"
        )
    return memory, disk


def lan_rates(deployment: Deployment) -> dict[str, float]:
    """Cluster -> bytes a second between its machines; infinite where the file does not say it."""
    rates = {c.name: c.lan.rate_bytes_per_s for c in deployment.clusters if c.kind == "pd"}
    return {name: inf if rate is None else rate for name, rate in rates.items()}
