"""The scenario file of ``prfaas simulate``, and the `World` it describes (docs/simulator.md)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from prfaas.core.deployment import ClusterKind, EngineRole, SchedulerConfig, Strict
from prfaas.core.errors import ConfigError
from prfaas.core.kv_size import KvSize
from prfaas.core.lengths import LengthDistribution, TruncatedLogNormal
from prfaas.core.profiles import InstanceProfile, load_profile
from prfaas.core.strict import load_yaml
from prfaas.core.units import parse_duration, parse_rate, parse_tokens
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.registry import make_policy
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.sim.traces import read_trace
from prfaas.sim.workload import Arrivals, Process, Workload, draw
from prfaas.sim.world import EngineModel, LineModel, Outage, World

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
        return Arrivals(
            self.process, self.rate, self.variation, self.swing, parse_duration(str(self.period))
        )


class WorkloadConfig(Strict, frozen=True):
    """A drawn workload, or a ``trace`` file (then lengths and arrivals come from it)."""

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
        return parse_duration(str(self.ttft))

    @property
    def tpot_s(self) -> float:
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
    link_reports: Quantity = "1 s"
    deadline: Quantity | None = None
    seed: int = 1


def load_scenario(path: Path) -> Scenario:
    """Read and check a scenario file. Raises ConfigError."""
    scenario = load_yaml(path, Scenario)
    names = {cluster.name for cluster in scenario.clusters}
    if not any(cluster.kind == "pd" for cluster in scenario.clusters):
        raise ConfigError(f"{path}: no cluster of kind 'pd'; nothing could decode")
    for link in scenario.links:
        for end in (link.source, link.target):
            if end not in names:
                raise ConfigError(f"{path}: link names cluster {end!r}; known: {sorted(names)}")
    if scenario.workload.trace is None and scenario.workload.arrivals is None:
        raise ConfigError(f"{path}: workload needs arrivals: {{rate: ...}} or a trace: file")
    return scenario


def run_for(scenario: Scenario, name: str) -> RunConfig:
    """The run of that name, or the scenario's own instances under the policy of that name."""
    for run in scenario.runs:
        if run.name == name:
            return run
    scheduler = msgspec.structs.replace(scenario.scheduler, policy=name, options={})
    make_policy(scheduler)
    return RunConfig(name=name, scheduler=scheduler)


def build_workload(scenario: Scenario, *, beside: Path) -> Workload:
    """Draw or read the workload. ``beside``: where a relative trace path starts."""
    config = scenario.workload
    rng = np.random.default_rng(scenario.seed)
    if config.trace is not None:
        rate = None if config.arrivals is None else config.arrivals.arrivals()
        workload = read_trace(beside / config.trace, arrivals=rate, count=config.requests, rng=rng)
        return workload.sped_up(config.speed_up)
    assert config.arrivals is not None
    arrivals = config.arrivals.arrivals()
    drawn = draw(
        config.lengths.distribution(), config.output_tokens, arrivals, config.requests, rng
    )
    return drawn.sped_up(config.speed_up)


def build_world(scenario: Scenario, run: RunConfig, workload: Workload, *, beside: Path) -> World:
    """Engines, lines and costs of one run. Raises ConfigError for what does not fit together."""
    pools = [
        (cluster, role, pool)
        for cluster in scenario.clusters
        for role, pool in _pools(cluster, run.instances.get(cluster.name))
    ]
    profiles = {pool.profile: load_profile(pool.profile, beside=beside) for _, _, pool in pools}
    names = [
        (f"{cluster.name}-{role}-{number}", cluster.name, role, pool)
        for cluster, role, pool in pools
        for number in range(pool.instances)
    ]
    seconds = {name: cache(p.prefill_or_refuse.table.at) for name, p in profiles.items()}
    kv = _kv_size(profiles.values())
    return World(
        topology=_topology(scenario, names, profiles),
        engines=tuple(_model(name, profiles[pool.profile], pool) for name, _, _, pool in names),
        lines=tuple(_line(link) for link in scenario.links),
        costs=ProfileCosts(
            {name: seconds[pool.profile] for name, _, _, pool in names}, cache(kv.bytes)
        ),
        state_bytes=kv.bytes(0),
        cache_blocks=_cache_blocks(scenario, workload),
        outages=_outages(scenario, [name for name, *_ in names], whole=not run.instances),
        link_report_s=parse_duration(str(scenario.link_reports)),
    )


def _outages(scenario: Scenario, engines: list[str], *, whole: bool) -> tuple[Outage, ...]:
    """``whole``: a run on the scenario's own instances has every engine that a failure may name;
    another split may lack some."""
    found = []
    for failure in scenario.failures:
        outage = Outage(
            failure.engine, parse_duration(str(failure.at)), parse_duration(str(failure.duration))
        )
        if failure.engine in engines:
            found.append(outage)
        elif whole:
            known = ", ".join(engines)
            raise ConfigError(f"failures: no engine {failure.engine!r}; known: {known}")
    return tuple(found)


def _pools(cluster: SimCluster, split: Split | None) -> list[tuple[EngineRole, PoolConfig]]:
    found: list[tuple[EngineRole, PoolConfig]] = []
    roles: tuple[Literal["prefill"], Literal["decode"]] = ("prefill", "decode")
    for role in roles:
        pool = cluster.prefill if role == "prefill" else cluster.decode
        count = None if split is None else getattr(split, role)
        if pool is None:
            if count:
                raise ConfigError(f"cluster {cluster.name!r} has no {role} pool to resize")
            continue
        if count is not None:
            pool = msgspec.structs.replace(pool, instances=count)
        found.append((role, pool))
    return found


def _topology(
    scenario: Scenario,
    names: list[tuple[str, str, EngineRole, PoolConfig]],
    profiles: dict[str, InstanceProfile],
) -> Topology:
    engines = []
    for name, cluster, role, pool in names:
        # A simulated engine queues prompts itself: what the scheduler holds back changes nothing.
        slots = _model(name, profiles[pool.profile], pool).max_batch
        engines.append(EngineSpec(name, cluster, role, slots, max_prefills=1_000_000))
    return Topology(
        clusters=tuple(ClusterSpec(c.name, c.kind) for c in scenario.clusters),
        engines=tuple(engines),
        links=tuple(
            LinkSpec(k.source, k.target, parse_rate(str(k.rate)), parse_duration(str(k.rtt)))
            for k in scenario.links
        ),
        alignment_tokens=scenario.block_tokens,
    )


def _model(name: str, profile: InstanceProfile, pool: PoolConfig) -> EngineModel:
    decode = profile.decode
    return EngineModel(
        name=name,
        step_seconds=None if decode is None else decode.step_seconds,
        max_batch=1 if decode is None else pool.batch or decode.max_batch,
        kv_tokens=float("inf") if pool.kv_tokens is None else parse_tokens(pool.kv_tokens),
    )


def _line(link: SimLine) -> LineModel:
    changes = []
    for change in link.changes:
        if change.cut == (change.rate is not None):
            raise ConfigError(f"link change at {change.at}: write either rate: ... or cut: true")
        rate = 0.0 if change.rate is None else parse_rate(str(change.rate))
        changes.append((parse_duration(str(change.at)), rate))
    return LineModel(
        link.source, link.target, parse_rate(str(link.rate)), parse_duration(str(link.rtt)),
        link.loss, link.connections, tuple(changes),
    )  # fmt: skip


def _kv_size(profiles: Iterable[InstanceProfile]) -> KvSize:
    sizes = {p.kv for p in profiles if p.kv is not None}
    if len(sizes) != 1:
        raise ConfigError("the profiles must agree on one kv: {constant: ..., per_token: ...}")
    return sizes.pop()


def _cache_blocks(scenario: Scenario, workload: Workload) -> dict[str, int]:
    if not workload.blocks:
        return {}
    found = {c.name: parse_tokens(c.cache) // workload.block_tokens for c in scenario.clusters}
    return {name: blocks for name, blocks in found.items() if blocks}
