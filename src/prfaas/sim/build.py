"""From a scenario file to the workload and the `World` of each run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from prfaas.core.deployment import EngineRole
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.core.units import parse_duration, parse_rate, parse_tokens
from prfaas.models.interpolation import Table
from prfaas.models.profiles import InstanceProfile, common_kv_size, load_profile
from prfaas.scheduler.journal import CostInputs, Curve
from prfaas.scheduler.replay import estimates_from
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.sim.scenario import PoolConfig, RunConfig, Scenario, SimCluster, SimLine, Split
from prfaas.sim.world import EngineModel, LineModel, Outage, World
from prfaas.workload.replay import replayed
from prfaas.workload.requests import Workload, draw


def build_workload(scenario: Scenario, *, beside: Path) -> Workload:
    """Draw or read the workload. ``beside``: where a relative trace path starts."""
    config = scenario.workload
    count, rng = config.requests, np.random.default_rng(scenario.seed)
    arrivals = None if config.arrivals is None else config.arrivals.arrivals()
    if config.source is not None:
        trace = config.source.read(beside)
        with naming(f"trace {config.source.file}"):
            workload = replayed(trace, arrivals=arrivals, count=count, rng=rng)
    else:
        assert arrivals is not None
        lengths = config.lengths.distribution()
        workload = draw(lengths, config.output_tokens, arrivals, count, rng)
    return workload.sped_up(config.speed_up)


def build_world(scenario: Scenario, run: RunConfig, workload: Workload, *, beside: Path) -> World:
    """Engines, lines and costs of one run. Raises ConfigError for what does not fit together."""
    pools = [
        (cluster, role, pool)
        for cluster in scenario.clusters
        for role, pool in _pools(cluster, run.instances.get(cluster.name))
    ]
    profiles = {pool.profile: load_profile(pool.profile, beside=beside) for _, _, pool in pools}
    longest = max(workload.prompts)
    for cluster, _, pool in pools:
        _check_profile(cluster, profiles[pool.profile], longest)
    names = [
        (f"{cluster.name}-{role}-{number}", cluster.name, role, pool)
        for cluster, role, pool in pools
        for number in range(pool.instances)
    ]
    curves = {name: _curve(p.prefill_or_refuse.table) for name, p in profiles.items()}
    kv = common_kv_size(profiles.values())
    inputs = CostInputs(kv_size=kv, prefill={name: curves[p.profile] for name, _, _, p in names})
    topology = _topology(scenario, names, profiles)
    return World(
        topology=topology,
        engines=tuple(_model(name, profiles[pool.profile], pool) for name, _, _, pool in names),
        lines=tuple(_line(link) for link in scenario.links),
        costs=estimates_from(inputs, topology.cluster_of).costs,
        cost_inputs=inputs,
        state_bytes=kv.bytes(0),
        cache_blocks=_cache_blocks(scenario, workload),
        outages=_outages(scenario, [name for name, *_ in names], whole=not run.instances),
        link_report_s=parse_duration(str(scenario.link_reports)),
    )


def _curve(table: Table) -> Curve:
    return Curve(table.x, table.y, table.interpolation)


def _check_profile(cluster: SimCluster, profile: InstanceProfile, longest: int) -> None:
    """Every engine may have to prefill any prompt (decode engines where no other is up), and in a
    PD cluster to decode (prefill engines as a stand-in or in another role)."""
    if cluster.kind == "pd":
        _ = profile.decode_or_refuse
    covered = profile.prefill_or_refuse.max_tokens
    if longest > covered:
        raise ConfigError(
            f"cluster {cluster.name!r}: profile {profile.name!r} ends at {covered} tokens, the "
            f"workload's prompts reach {longest}; measure a longer prompt and add the point, or "
            f"shorten the workload (a trace: with --clip {covered})"
        )


def _outages(scenario: Scenario, engines: list[str], *, whole: bool) -> tuple[Outage, ...]:
    """``whole``: a run on the scenario's own instances has every engine that a failure may name;
    another split may lack some. Raises ConfigError for those of one engine that overlap."""
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
    for first, second in pairwise(sorted(found, key=lambda outage: (outage.engine, outage.at))):
        if first.engine == second.engine and second.at <= first.at + first.for_s:
            raise ConfigError(
                f"failures: {first.engine!r} fails at {second.at:g} s and is not back from the "
                f"failure at {first.at:g} s; write both as one"
            )
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
        model = _model(name, profiles[pool.profile], pool)
        engines.append(
            EngineSpec(
                name,
                cluster,
                role,
                model.max_batch,
                max_prefills=1_000_000,
                kv_tokens=None if pool.kv_tokens is None else model.kv_tokens,
            )
        )
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


def _cache_blocks(scenario: Scenario, workload: Workload) -> dict[str, int]:
    if not workload.blocks:
        return {}
    found = {c.name: parse_tokens(c.cache) // workload.block_tokens for c in scenario.clusters}
    return {name: blocks for name, blocks in found.items() if blocks}
