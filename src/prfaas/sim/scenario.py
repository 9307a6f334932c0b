"""The scenario file of ``prfaas simulate`` (docs/simulator.md). `prfaas.sim.build` builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from prfaas.core.deployment import ClusterKind, SchedulerConfig, Strict
from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml, naming
from prfaas.core.units import parse_duration, parse_rate, parse_tokens
from prfaas.policies.registry import for_policy, make_policy
from prfaas.sim.workload import Arrivals, Process
from prfaas.workload.lengths import LengthDistribution, TruncatedLogNormal

Tokens = str | int
Quantity = str | int | float
"""Takes a unit; a bare number is let in so that the error can name the units."""


class PoolConfig(Strict, frozen=True):
    """Equal engines of one role. ``batch``: decode sequences at a time (default: the profile's
    largest); ``kv_tokens``: tokens whose KV cache fits beside the weights."""

    instances: int
    profile: str
    batch: int | None = None
    kv_tokens: Tokens | None = None


class SimCluster(Strict, frozen=True):
    """``cache``: tokens that the cluster's prefix cache pool holds (traces with block hashes)."""

    name: str
    kind: ClusterKind
    prefill: PoolConfig | None = None
    decode: PoolConfig | None = None
    cache: Tokens = 0


class LineChange(Strict, frozen=True):
    """From ``at`` on the line carries ``rate``; ``cut: true`` instead: nothing."""

    at: Quantity
    rate: Quantity | None = None
    cut: bool = False


class SimLine(Strict, frozen=True):
    """One direction of a line; ``loss``: the share of packets lost."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    rate: Quantity
    rtt: Quantity = "0 ms"
    loss: float = 0.0
    connections: int = 16
    changes: tuple[LineChange, ...] = ()


class LogNormalLengths(Strict, frozen=True):
    """ln(tokens) normal, truncated; the paper's workload by default."""

    mu: float = 9.9
    sigma: float = 1.0
    low: Tokens = 128
    high: Tokens = "128K"

    def distribution(self) -> LengthDistribution:
        """To draw from. Raises ConfigError."""
        return TruncatedLogNormal(
            self.mu, self.sigma, parse_tokens(self.low), parse_tokens(self.high)
        )


class ArrivalConfig(Strict, frozen=True):
    """``rate``: requests per second."""

    rate: float
    process: Process = "poisson"
    variation: float = 4.0
    swing: float = 0.5
    period: Quantity = "1 d"

    def arrivals(self) -> Arrivals:
        """To draw from. Raises ConfigError."""
        return Arrivals(
            self.process, self.rate, self.variation, self.swing, parse_duration(str(self.period))
        )


class WorkloadConfig(Strict, frozen=True):
    """A drawn workload, or a ``trace`` file: its lengths, and its arrival times where it has any.

    ``requests``: how many are drawn; a recorded trace is replayed whole.
    """

    requests: int = 10_000
    lengths: LogNormalLengths = LogNormalLengths()
    output_tokens: int = 1024
    arrivals: ArrivalConfig | None = None
    trace: str | None = None
    speed_up: float = 1.0


class Slo(Strict, frozen=True):
    """What counts as served well."""

    ttft: Quantity = "10 s"
    tpot: Quantity = "50 ms"

    @property
    def ttft_s(self) -> float:
        """Raises ConfigError."""
        return parse_duration(str(self.ttft))

    @property
    def tpot_s(self) -> float:
        """Raises ConfigError."""
        return parse_duration(str(self.tpot))


class OutageConfig(Strict, frozen=True):
    """Engines are named ``<cluster>-<role>-<number from 0>``."""

    engine: str
    at: Quantity
    duration: Quantity = msgspec.field(name="for")


class Split(Strict, frozen=True):
    """Instances in place of the cluster's own."""

    prefill: int = 0
    decode: int = 0


class RunConfig(Strict, frozen=True):
    """One row of the result: a policy, on the scenario's instances or another split of them."""

    name: str
    scheduler: SchedulerConfig = SchedulerConfig()
    instances: dict[str, Split] = msgspec.field(default_factory=dict)


class Scenario(Strict, frozen=True):
    """``block_tokens``: hand-offs end at multiples of it. ``link_reports``: how often the scheduler
    hears how full the lines are. ``deadline``: from arrival to first token, else the request fails.
    """

    clusters: tuple[SimCluster, ...]
    links: tuple[SimLine, ...] = ()
    workload: WorkloadConfig = WorkloadConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    """For policies named on the command line; ``runs`` bring their own."""
    runs: tuple[RunConfig, ...] = ()
    slo: Slo = Slo()
    failures: tuple[OutageConfig, ...] = ()
    block_tokens: int = 64
    costs: Literal["profiles", "learned"] = "profiles"
    """Whether the scheduler is told the profiles, or learns from the prefills it sees, as the
    gateway does."""
    link_reports: Quantity = "1 s"
    deadline: Quantity | None = None
    seed: int = 1


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file. Raises ConfigError naming the place and what to write."""
    scenario = load_yaml(path, Scenario)
    for wrong in _out_of_bounds(scenario):
        raise ConfigError(f"{path}: {wrong}")
    for where, parse in _parsed(scenario):
        with naming(f"{path}: {where}"):
            parse()
    return scenario


def _out_of_bounds(scenario: Scenario) -> Iterator[str]:
    """What is wrong, the first thing first."""
    yield from _wrong_clusters(scenario)
    yield from _wrong_links(scenario)
    yield from _wrong_runs(scenario)
    workload = scenario.workload
    if workload.trace is None and workload.arrivals is None:
        yield "workload: write arrivals: {rate: REQUESTS_PER_S}, or trace: FILE"
    if workload.requests < 1 or workload.output_tokens < 1:
        yield "workload: requests and output_tokens: write 1 or more"
    if scenario.block_tokens < 1:
        yield f"block_tokens: {scenario.block_tokens}; write 1 or more"
    if scenario.seed < 0:
        yield f"seed: {scenario.seed}; write 0 or more"


def _wrong_clusters(scenario: Scenario) -> Iterator[str]:
    names = [cluster.name for cluster in scenario.clusters]
    if not any(cluster.kind == "pd" and cluster.decode for cluster in scenario.clusters):
        yield "clusters: none of kind 'pd' with a decode pool; nothing could decode"
    if len(set(names)) < len(names):
        yield f"clusters: every name once; found {', '.join(names)}"
    for cluster in scenario.clusters:
        if cluster.kind == "prfaas" and cluster.decode is not None:
            yield f"cluster {cluster.name!r} of kind 'prfaas' only prefills; leave decode out"
        for role, pool in (("prefill", cluster.prefill), ("decode", cluster.decode)):
            if pool is not None and pool.instances < 1:
                yield (
                    f"cluster {cluster.name!r}: {role}.instances: {pool.instances}; "
                    "write 1 or more, or leave the pool out"
                )
            if pool is not None and pool.batch is not None and pool.batch < 1:
                yield f"cluster {cluster.name!r}: {role}.batch: {pool.batch}; write 1 or more"


def _wrong_links(scenario: Scenario) -> Iterator[str]:
    names = [cluster.name for cluster in scenario.clusters]
    ends = [(link.source, link.target) for link in scenario.links]
    for source, target in ends:
        for end in (source, target):
            if end not in names:
                yield f"links: no cluster {end!r}; known: {', '.join(names)}"
        if source == target:
            yield f"links: from {source!r} to itself; a line joins two clusters"
        if ends.count((source, target)) > 1:
            yield f"links: from {source!r} to {target!r} twice; add their rates up in one"
    for link in scenario.links:
        if not 0 <= link.loss < 1:
            yield f"links: loss: {link.loss}; write the share of packets lost, 0 to below 1"
        if link.connections < 1:
            yield f"links: connections: {link.connections}; write 1 or more"


def _wrong_runs(scenario: Scenario) -> Iterator[str]:
    known = [cluster.name for cluster in scenario.clusters]
    names = [run.name for run in scenario.runs]
    if len(set(names)) < len(names):
        yield f"runs: every name once; found {', '.join(names)}"
    for run in scenario.runs:
        for cluster, split in run.instances.items():
            if cluster not in known:
                yield (
                    f"run {run.name!r}: instances: no cluster {cluster!r}; "
                    f"known: {', '.join(known)}"
                )
            if min(split.prefill, split.decode) < 0:
                yield f"run {run.name!r}: instances: {cluster}: write 0 or more of each role"


def _parsed(scenario: Scenario) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every quantity and policy of the file: where it stands, and what reads it."""
    for i, link in enumerate(scenario.links):
        yield f"links[{i}].rate", partial(_above_0, parse_rate, str(link.rate))
        yield f"links[{i}].rtt", partial(parse_duration, str(link.rtt))
        for change in link.changes:
            yield f"links[{i}].changes: at", partial(parse_duration, str(change.at))
            if change.rate is not None:
                yield f"links[{i}].changes: rate", partial(parse_rate, str(change.rate))
    for i, failure in enumerate(scenario.failures):
        yield f"failures[{i}].at", partial(parse_duration, str(failure.at))
        yield f"failures[{i}].for", partial(parse_duration, str(failure.duration))
    for i, run in enumerate(scenario.runs):
        yield f"runs[{i}]", partial(make_policy, run.scheduler)
    if scenario.workload.trace is None:
        yield "workload.lengths", scenario.workload.lengths.distribution
    if scenario.workload.arrivals is not None:
        yield "workload.arrivals", scenario.workload.arrivals.arrivals
    yield "slo.ttft", lambda: scenario.slo.ttft_s
    yield "slo.tpot", lambda: scenario.slo.tpot_s
    yield "link_reports", partial(_above_0, parse_duration, str(scenario.link_reports))
    if scenario.deadline is not None:
        yield "deadline", partial(parse_duration, str(scenario.deadline))


def _above_0(parse: Callable[[str], float], text: str) -> float:
    value = parse(text)
    if value <= 0:
        raise ConfigError(f"{text}; write more than 0")
    return value


def run_for(scenario: Scenario, name: str) -> RunConfig:
    """The run of that name, or the scenario's own instances under the policy of that name, with
    the options it has of those under ``scheduler``. Raises ConfigError."""
    for run in scenario.runs:
        if run.name == name:
            return run
    scheduler = for_policy(scenario.scheduler, name)
    make_policy(scheduler)
    return RunConfig(name=name, scheduler=scheduler)
