"""The whole file: what there is, and what stands beside it.

`load_description` reads the file of a running system as well as one of hardware that is only
planned; `prfaas.core.deployment.load_deployment` reads the same file for those who run it, and
takes of it what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.deployment import Deployment, validate
from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml, naming, parse_yaml
from prfaas.core.units import parse_duration
from prfaas.description.earlier import form_of
from prfaas.description.engines import PlannedEngines, check_pools, engines_of, with_profiles
from prfaas.description.experiments import Experiments
from prfaas.description.objectives import Slo
from prfaas.description.prices import Prices
from prfaas.description.workload import WorkloadConfig


class Description(Deployment, frozen=True, kw_only=True):
    """A deployment with what planner and simulator need beside it; everything is optional."""

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

    def engines(self) -> list[PlannedEngines]:
        """Its engines, see `engines_of`. Raises ConfigError."""
        return engines_of(self.clusters)

    def with_profiles(self, profiles: Mapping[str, str]) -> Description:
        """With profiles named beside the file, see `with_profiles`. Raises ConfigError."""
        return msgspec.structs.replace(self, clusters=with_profiles(self.clusters, profiles))


def load_description(path: Path) -> Description:
    """Read and check a description. Raises ConfigError naming the place and what to write."""
    try:
        description = load_yaml(path, Description)
    except ConfigError as error:
        _refuse_earlier_form(path, error)
        raise
    check_description(description, source=str(path))
    return description


def parse_description(text: bytes | str, *, source: str) -> Description:
    """The same from memory."""
    description = parse_yaml(text, Description, source=source)
    check_description(description, source=source)
    return description


def check_description(description: Description, *, source: str) -> None:
    """Raise ConfigError for what the types cannot say."""
    validate(description, source=source, runs=False)
    clusters = [cluster.name for cluster in description.clusters]
    links = [(link.source, link.target) for link in description.links]
    with naming(source):
        for cluster in description.clusters:
            with naming(f"cluster {cluster.name!r}"):
                check_pools(cluster.kind, cluster.pools)
        for link in description.links:
            with naming(f"link from {link.source!r} to {link.target!r}: rtt"):
                parse_duration(str(link.rtt))
        if description.workload is not None:
            with naming("workload"):
                description.workload.check()
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
