"""Machines whose agents cache prefixes, as a deployment's own keys describe them."""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from prfaas.core.deployment import Deployment
from prfaas.core.units import parse_bytes
from prfaas.description.caches import check_machines, disk_bytes, memory_bytes
from prfaas.sim.world import MachineModel


def machines_of(deployment: Deployment, engines: Collection[str]) -> tuple[MachineModel, ...]:
    """Of the clusters that say ``prefix_cache: agents``, with those ``engines`` that are in the
    run. Raises ConfigError for a cluster that has no machines."""
    check_machines(deployment)
    found = []
    for cluster in deployment.clusters:
        if cluster.prefix_cache != "agents":
            continue
        for machine in cluster.machines:
            found.append(
                MachineModel(
                    machine.name,
                    cluster.name,
                    tuple(e.name for e in machine.engines if e.name in engines),
                    memory_bytes(machine.agent),
                    answers=machine.agent.cache.answers,
                    disk_bytes=disk_bytes(machine.agent),
                    slot_bytes=parse_bytes(machine.agent.slot),
                )
            )
    return tuple(found)


def lan_rates(deployment: Deployment) -> dict[str, float]:
    """Cluster -> bytes a second between its machines; infinite where the file does not say it."""
    rates = {c.name: c.lan.rate_bytes_per_s for c in deployment.clusters if c.kind == "pd"}
    return {name: inf if rate is None else rate for name, rate in rates.items()}
