"""What a deployment costs per hour, and how many requests a dollar buys."""

from __future__ import annotations

import msgspec

from prfaas.planner.scenario import Scenario
from prfaas.planner.sites import Cluster


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment costs at ``lambda_max``, in US dollars."""

    usd_per_hour: float
    """GPUs, lines and traffic."""
    lines_usd_per_hour: float
    traffic_usd_per_hour: float
    requests_per_usd: float | None
    """None where it costs nothing."""


def cost_of(
    scenario: Scenario, clusters: list[Cluster], sent: dict[str, float], lam: float
) -> Cost | None:
    """What ``clusters`` and lines cost while ``lam`` requests per second are served.

    Args:
        sent: bytes per second by line name; a line without an entry is not part of it.
    Returns None where a cluster has no price.
    """
    rents = [cluster.usd_per_hour for cluster in clusters]
    if any(rent is None for rent in rents):
        return None
    used = [line for line in scenario.lines if line.name in sent]
    lines = sum(line.usd_per_hour(0) for line in used)
    traffic = sum(line.usd_per_hour(sent[line.name]) for line in used) - lines
    total = sum(rent for rent in rents if rent is not None) + lines + traffic
    return Cost(
        usd_per_hour=total,
        lines_usd_per_hour=lines,
        traffic_usd_per_hour=traffic,
        requests_per_usd=lam * 3600 / total if total else None,
    )
