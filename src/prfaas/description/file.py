"""The whole file: what there is, and what stands beside it.

`load_description` reads the file of a running system as well as one of hardware that is only
planned; `prfaas.core.deployment` reads the same file for those who run it, and takes of it what
there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.deployment import Deployment
from prfaas.core.deployment.file import DeploymentFile, deployment_of
from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml, naming, parse_yaml
from prfaas.core.units import parse_duration
from prfaas.description.caches import check_caches
from prfaas.description.earlier import form_of
from prfaas.description.engines import PlannedEngines, check_pools, engines_of, with_profiles
from prfaas.description.experiments import Experiments
from prfaas.description.objectives import Slo
from prfaas.description.prices import Prices
from prfaas.description.workload import WorkloadConfig


class DescriptionFile(DeploymentFile, frozen=True, kw_only=True):
    """The whole file: clusters, links, model, gateways and scheduler are what there is; the rest
    stands beside it, and a running system passes over it."""

    workload: WorkloadConfig | None = None
    slo: Slo = Slo()
    prices: Prices = Prices()
    experiments: Experiments = Experiments()


class Description(Deployment, frozen=True, kw_only=True):
    """A deployment with what planner and simulator need beside it."""

    name: str = ""
    workload: WorkloadConfig | None = None
    slo: Slo = Slo()
    prices: Prices = Prices()
    experiments: Experiments = Experiments()

    @property
    def asked(self) -> WorkloadConfig:
        """The workload. Raises ConfigError where there is none."""
        if self.workload is None:
            raise ConfigError(
                "no workload: add 'workload:' to the file, or pass --workload FILE or --trace FILE "
                "(a gateway's journal is a trace, too)"
            )
        return self.workload

    @property
    def planned_engines(self) -> list[PlannedEngines]:
        """Its engines and instances, see `engines_of`. Raises ConfigError."""
        return engines_of(self.clusters)

    def with_profiles(self, profiles: Mapping[str, str]) -> Description:
        """With profiles named beside the file, see `with_profiles`. Raises ConfigError."""
        return msgspec.structs.replace(self, clusters=with_profiles(self.clusters, profiles))


def load_description(path: Path) -> Description:
    """Read and check a description. Raises ConfigError naming the place and what to write."""
    try:
        file = load_yaml(path, DescriptionFile)
    except ConfigError as error:
        _refuse_earlier_form(path, error)
        raise
    return _described(file, source=str(path))


def parse_description(text: bytes | str, *, source: str) -> Description:
    """The same from memory."""
    return _described(parse_yaml(text, DescriptionFile, source=source), source=source)


def _described(file: DescriptionFile, *, source: str) -> Description:
    with naming(source):
        there = deployment_of(file)
        found = Description(
            **{name: getattr(there, name) for name in there.__struct_fields__},
            **{name: getattr(file, name) for name in _BESIDE},
        )
        check_description(found)
    return found


_BESIDE = ("name", "workload", "slo", "prices", "experiments")


def check_description(description: Description) -> None:
    """Raise ConfigError for what the types cannot say of what stands beside a deployment."""
    clusters = [cluster.name for cluster in description.clusters]
    links = [(link.source, link.target) for link in description.links]
    for cluster in description.clusters:
        with naming(f"cluster {cluster.name!r}"):
            check_pools(cluster.kind, cluster.pools)
            check_caches(cluster)
    for link in description.links:
        with naming(f"link from {link.source!r} to {link.target!r}: rtt"):
            parse_duration(str(link.rtt))
    if description.workload is not None:
        with naming("workload"):
            description.workload.check()
        if description.workload.prefix_hit_rate:
            for cluster in description.clusters:
                if cluster.has_agents:
                    raise ConfigError(
                        f"workload: prefix_hit_rate and prefix_cache of cluster {cluster.name!r} "
                        "exclude each other: what is hit is fixed, or found by a trace in agents' "
                        "caches; leave one out"
                    )
    with naming("slo"):
        description.slo.check()
    with naming("prices"):
        description.prices.check(clusters, links)
    with naming("experiments"):
        description.experiments.check(clusters, links)


def load_workload(path: Path) -> WorkloadConfig:
    """A file that holds a workload alone. Raises ConfigError."""
    workload = load_yaml(path, WorkloadConfig)
    with naming(str(path)):
        workload.check()
    source = workload.source
    if source is None:
        return workload
    beside = path.parent / source.file
    return msgspec.structs.replace(
        workload, trace=msgspec.structs.replace(source, file=str(beside.resolve()))
    )


def _refuse_earlier_form(path: Path, error: ConfigError) -> None:
    try:
        found: Any = load_yaml(path, dict[str, Any])
    except ConfigError:
        return
    if form_of(found) is not None:
        raise ConfigError(
            f"{path}: written for an earlier version; 'prfaas convert {path}' writes it anew"
        ) from error
