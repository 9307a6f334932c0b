"""What planner and simulator try on a deployment, as it is written."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import ConfigError
from prfaas.core.planned import Quantity
from prfaas.core.strict import Strict, naming
from prfaas.core.units import parse_duration, parse_rate

_LEAST_REPORT_S = 1e-3


class LineChange(Strict, frozen=True):
    """From ``at`` on the line from one cluster to another carries ``rate``; ``cut: true`` instead:
    nothing."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    at: Quantity
    rate: Quantity | None = None
    cut: bool = False

    @property
    def rate_bytes_per_s(self) -> float:
        """0 while it is cut. Raises ConfigError."""
        return 0.0 if self.rate is None else parse_rate(str(self.rate))

    def check(self) -> None:
        """Raises ConfigError for what the types cannot say."""
        if self.cut == (self.rate is not None):
            raise ConfigError(f"at {self.at}: write either rate: ... or cut: true")
        _ = parse_duration(str(self.at)), self.rate_bytes_per_s


class OutageConfig(Strict, frozen=True):
    """An engine that is dead from ``at`` for so long. Instances are engines that are called
    ``<cluster>-<role>-<number from 0>``."""

    engine: str
    at: Quantity
    duration: Quantity = msgspec.field(name="for")


class Split(Strict, frozen=True):
    """How many prefill and how many decode, in place of the cluster's own."""

    prefill: Annotated[int, msgspec.Meta(le=1 << 20)] = 0
    decode: Annotated[int, msgspec.Meta(le=1 << 20)] = 0


class RunConfig(Strict, frozen=True):
    """One row of a simulation's result: a policy, on the deployment's own engines or another split
    of them."""

    name: str
    scheduler: SchedulerConfig = SchedulerConfig()
    instances: dict[str, Split] = msgspec.field(default_factory=dict)


class Experiments(Strict, frozen=True):
    """``costs``: whether the simulated scheduler is told the profiles, or learns from the prefills
    it sees, as the gateway does. ``link_reports``: how often it hears how full the lines are.
    ``expectations``: how the planner averages prefill times; the paper's way, or exactly."""

    runs: tuple[RunConfig, ...] = ()
    failures: tuple[OutageConfig, ...] = ()
    line_changes: tuple[LineChange, ...] = ()
    costs: Literal["profiles", "learned"] = "profiles"
    link_reports: Quantity = "1 s"
    expectations: Literal["mean-length", "exact"] = "mean-length"
    seed: int = 1

    def check(self, clusters: list[str], links: list[tuple[str, str]]) -> None:
        """Raises ConfigError for what the types cannot say. Engines of ``failures`` and options of
        policies are checked where there are engines and policies."""
        if self.seed < 0:
            raise ConfigError(f"seed: {self.seed}; write 0 or more")
        with naming("link_reports"):
            if parse_duration(str(self.link_reports)) < _LEAST_REPORT_S:
                raise ConfigError(f"{self.link_reports}; write 1 ms or more")
        names = [run.name for run in self.runs]
        if len(set(names)) < len(names):
            raise ConfigError(f"runs: every name once; found {', '.join(names)}")
        for run in self.runs:
            with naming(f"run {run.name!r}: instances"):
                _check_split(run, clusters)
        for i, failure in enumerate(self.failures):
            with naming(f"failures[{i}]"):
                _ = parse_duration(str(failure.at)), parse_duration(str(failure.duration))
        for i, change in enumerate(self.line_changes):
            with naming(f"line_changes[{i}]"):
                change.check()
                if (change.source, change.target) not in links:
                    raise ConfigError(f"there is no link from {change.source} to {change.target}")


def _check_split(run: RunConfig, clusters: list[str]) -> None:
    for cluster, split in run.instances.items():
        if cluster not in clusters:
            raise ConfigError(f"no cluster {cluster!r}; known: {', '.join(clusters)}")
        if min(split.prefill, split.decode) < 0:
            raise ConfigError(f"{cluster}: write 0 or more of each role")
