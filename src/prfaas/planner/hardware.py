"""Clusters and lines of a planning scenario: what the file says, checked."""

from __future__ import annotations

from math import inf
from pathlib import Path

from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.core.units import parse_duration, parse_rate
from prfaas.models.profiles import load_profile
from prfaas.planner.scenario_file import ScenarioFile
from prfaas.planner.sites import Cluster, Line


def clusters_of(file: ScenarioFile, beside: Path) -> list[Cluster]:
    """The file's clusters with their profiles; ``beside``: where a relative profile starts.

    Raises ConfigError that says what to write.
    """
    names = [cluster.name for cluster in file.clusters]
    if len(set(names)) < len(names):
        raise ConfigError(f"clusters: a name is used twice: {', '.join(names)}")
    if not any(cluster.kind == "pd" for cluster in file.clusters):
        raise ConfigError("clusters: none of kind 'pd'; nothing could decode")
    found = []
    for cluster in file.clusters:
        with naming(f"cluster {cluster.name!r}"):
            least = 2 if cluster.kind == "pd" else 1
            if cluster.instances < least:
                raise ConfigError(
                    f"instances: {cluster.instances}; write {least} or more"
                    + (" (one prefills, one decodes)" if least == 2 else "")
                    + ", or leave the cluster out"
                )
            _check_price(usd_per_gpu_hour=cluster.usd_per_gpu_hour)
            profile = load_profile(cluster.profile, beside=beside)
            _ = profile.prefill_or_refuse
            if cluster.kind == "pd":
                _ = profile.decode_or_refuse
        found.append(
            Cluster(
                name=cluster.name,
                kind=cluster.kind,
                profile=profile,
                instances=cluster.instances,
                usd_per_gpu_hour=cluster.usd_per_gpu_hour,
            )
        )
    return found


def _check_price(**prices: float | None) -> None:
    for name, usd in prices.items():
        if usd is not None and not 0 <= usd < inf:
            raise ConfigError(f"{name}: {usd:g}; write 0 or more")


def lines_of(file: ScenarioFile) -> list[Line]:
    """The file's lines. Raises ConfigError that says what to write."""
    kinds = {cluster.name: cluster.kind for cluster in file.clusters}
    found: list[Line] = []
    for line in file.lines:
        with naming(f"line from {line.source} to {line.target}"):
            for end in (line.source, line.target):
                if end not in kinds:
                    known = ", ".join(sorted(kinds))
                    raise ConfigError(f"no cluster is named {end!r}; known: {known}")
            if kinds[line.target] != "pd" or line.source == line.target:
                raise ConfigError("KV goes to another cluster of kind 'pd'; is it turned around?")
            if any((line.source, line.target) == (a.source, a.target) for a in found):
                raise ConfigError("given twice; add their bandwidths up in one")
            bytes_per_s = parse_rate(str(line.bandwidth))
            if bytes_per_s <= 0:
                raise ConfigError("bandwidth must be more than 0, for example '100 Gbps'")
            _check_price(usd_per_month=line.usd_per_month, usd_per_gb=line.usd_per_gb)
            found.append(
                Line(
                    source=line.source,
                    target=line.target,
                    bytes_per_s=bytes_per_s,
                    rtt_s=parse_duration(str(line.rtt)),
                    usd_per_month=line.usd_per_month,
                    usd_per_gb=line.usd_per_gb,
                )
            )
    linked = {line.source for line in found}
    for cluster in file.clusters:
        if cluster.kind == "prfaas" and cluster.name not in linked:
            raise ConfigError(
                f"cluster {cluster.name!r} has no line to a PD cluster; add under 'lines': "
                f"- {{from: {cluster.name}, to: NAME, bandwidth: 100 Gbps}}"
            )
    return found
