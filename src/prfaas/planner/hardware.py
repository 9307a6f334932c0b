"""Clusters and lines of a description as the planner computes with them, checked."""

from __future__ import annotations

from pathlib import Path

from prfaas.core.deployment import ClusterConfig
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.core.units import parse_duration, parse_rate
from prfaas.description.engines import PlannedEngines
from prfaas.description.file import Description
from prfaas.models.profiles import load_profile
from prfaas.planner.sites import Cluster, Line


def clusters_of(description: Description, beside: Path) -> list[Cluster]:
    """The clusters with their profiles; ``beside``: where a relative profile starts.

    Raises ConfigError that says what to write.
    """
    engines = description.planned_engines
    found = []
    for cluster in description.clusters:
        own = [e for e in engines if e.cluster == cluster.name]
        with naming(f"cluster {cluster.name!r}"):
            found.append(_cluster(cluster, own, description, beside))
    return found


def _cluster(
    cluster: ClusterConfig, engines: list[PlannedEngines], description: Description, beside: Path
) -> Cluster:
    count = sum(engine.instances for engine in engines)
    least = 2 if cluster.kind == "pd" else 1
    if count < least:
        raise ConfigError(
            f"instances: {count}; write {least} or more"
            + (" (one prefills, one decodes)" if least == 2 else "")
            + ", or leave the cluster out"
        )
    names = sorted({engine.profile for engine in engines})
    if len(names) > 1:
        raise ConfigError(
            f"its engines have profiles that differ ({', '.join(names)}); the planner takes one "
            "per cluster: name it with --profile CLUSTER=FILE, or write two clusters"
        )
    profile = load_profile(names[0], beside=beside)
    _ = profile.prefill_or_refuse
    if cluster.kind == "pd":
        _ = profile.decode_or_refuse
    return Cluster(
        name=cluster.name,
        kind=cluster.kind,
        profile=profile,
        instances=count,
        usd_per_gpu_hour=description.prices.usd_per_gpu_hour.get(cluster.name),
    )


def lines_of(description: Description) -> list[Line]:
    """The lines with their prices. Raises ConfigError that says what to write."""
    kinds = {cluster.name: cluster.kind for cluster in description.clusters}
    found: list[Line] = []
    for link in description.links:
        with naming(f"link from {link.source!r} to {link.target!r}"):
            if link.rate is None:
                raise ConfigError("how much it carries is not known; add rate: 100 Gbps")
            price = description.prices.of_link(link.source, link.target)
            found.append(
                Line(
                    source=link.source,
                    target=link.target,
                    bytes_per_s=parse_rate(link.rate),
                    rtt_s=parse_duration(str(link.rtt)),
                    usd_per_month=price.usd_per_month,
                    usd_per_gb=price.usd_per_gb,
                )
            )
    linked = {line.source for line in found}
    for name, kind in kinds.items():
        if kind == "prfaas" and name not in linked:
            raise ConfigError(
                f"cluster {name!r} has no line to a PD cluster; add under 'links': "
                f"- {{from: {name}, to: NAME, rate: 100 Gbps}}"
            )
    return found
