"""Machines whose agents cache prefixes, as a deployment's own keys describe them."""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from prfaas.core.deployment import AgentConfig, Deployment
from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_bytes
from prfaas.sim.world import MachineModel


def machines_of(deployment: Deployment, engines: Collection[str]) -> tuple[MachineModel, ...]:
    """Of the clusters that say ``prefix_cache: agents``, with those ``engines`` that are in the
    run. Raises ConfigError for a cluster that has no machines."""
    found = []
    for cluster in deployment.clusters:
        if cluster.prefix_cache != "agents":
            continue
        if not cluster.machines:
            raise ConfigError(
                f"cluster {cluster.name!r}: prefix_cache: agents needs machines with agents; "
                "of instances write tokens, for example prefix_cache: 10M"
            )
        for machine in cluster.machines:
            spill = machine.agent.cache.spill
            found.append(
                MachineModel(
                    machine.name,
                    cluster.name,
                    tuple(e.name for e in machine.engines if e.name in engines),
                    cache_bytes(machine.agent),
                    answers=machine.agent.cache.answers,
                    disk_bytes=0 if spill is None else spill.most_bytes,
                    slot_bytes=parse_bytes(machine.agent.slot),
                )
            )
    return tuple(found)


def cache_bytes(agent: AgentConfig) -> int:
    """Of its arena at most so much is cached: what it says, else half."""
    arena = parse_bytes(agent.arena)
    return arena // 2 if agent.cache.size is None else min(arena, parse_bytes(agent.cache.size))


def lan_rates(deployment: Deployment) -> dict[str, float]:
    """Cluster -> bytes a second between its machines; infinite where the file does not say it."""
    rates = {c.name: c.lan.rate_bytes_per_s for c in deployment.clusters if c.kind == "pd"}
    return {name: inf if rate is None else rate for name, rate in rates.items()}
