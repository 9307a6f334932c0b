"""How much the agents of a deployment cache, as its file says."""

from __future__ import annotations

from prfaas.core.deployment import AgentConfig, Deployment
from prfaas.core.errors import ConfigError
from prfaas.core.units import parse_bytes


def memory_bytes(agent: AgentConfig) -> int:
    """Of its arena at most so much is cached: what it says, else half."""
    arena = parse_bytes(agent.arena)
    return arena // 2 if agent.cache.size is None else min(arena, parse_bytes(agent.cache.size))


def disk_bytes(agent: AgentConfig) -> int:
    """What it caches on disk at most. What is in memory is there, too."""
    return 0 if agent.cache.spill is None else agent.cache.spill.most_bytes


def check_machines(deployment: Deployment) -> None:
    """Raises ConfigError for a cluster that says ``prefix_cache: agents`` and has no machines."""
    for cluster in deployment.clusters:
        if cluster.prefix_cache == "agents" and not cluster.machines:
            raise ConfigError(
                f"cluster {cluster.name!r}: prefix_cache: agents needs machines with agents; "
                "of instances write tokens, for example prefix_cache: 10M"
            )
