"""From a description to the workload and the `World` of each run."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from prfaas.core.deployment import LinkConfig
from prfaas.core.errors import ConfigError
from prfaas.core.planned import PlannedPool, Tokens
from prfaas.core.strict import naming
from prfaas.core.units import parse_duration, parse_rate, parse_tokens
from prfaas.description.caches import lan_rates, machines_of
from prfaas.description.drawing import drawn
from prfaas.description.experiments import LineChange, OutageConfig, RunConfig
from prfaas.description.file import Description
from prfaas.description.speeds import check_longest, kv_size_of
from prfaas.models.interpolation import Table
from prfaas.scheduler.journal import CostInputs, Curve
from prfaas.scheduler.replay import estimates_from
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.sim.fleet import SimEngine, fleet_of
from prfaas.sim.world import EngineModel, LineModel, Outage, World
from prfaas.workload.requests import Workload

_CONNECTIONS = 16
"""Of a link that does not say how many: what the tuner settles at on a line of some Gbit/s."""
_UNBOUNDED_TOKENS = 1 << 50


def build_workload(description: Description, *, beside: Path) -> Workload:
    """Draw or read the workload. ``beside``: where a relative trace path starts.

    Raises ConfigError where there is none, or it does not say when requests arrive.
    """
    return drawn(description.asked, seed=description.experiments.seed, beside=beside)


def build_world(
    description: Description, run: RunConfig, workload: Workload, *, beside: Path
) -> World:
    """Engines, lines and costs of one run. Raises ConfigError for what does not fit together."""
    fleet = fleet_of(description, run, beside=beside)
    longest = max(workload.prompts)
    kinds = {cluster.name: cluster.kind for cluster in description.clusters}
    for engine in fleet:
        # Every engine may have to prefill any prompt (decode engines where no other is up), and in
        # a PD cluster to decode (prefill engines as a stand-in or in another role).
        check_longest(f"cluster {engine.cluster!r}", engine.profile, longest)
        if kinds[engine.cluster] == "pd":
            _ = engine.profile.decode_or_refuse
    kv = kv_size_of(description.model, [engine.profile for engine in fleet], beside=beside)
    inputs = CostInputs(
        kv_size=kv, prefill={e.name: _curve(e.profile.prefill_or_refuse.table) for e in fleet}
    )
    topology = _topology(description, fleet)
    places = {engine.name: engine.cluster for engine in fleet}
    experiments = description.experiments
    return World(
        topology=topology,
        engines=tuple(_model(engine) for engine in fleet),
        lines=tuple(_line(link, experiments.line_changes) for link in description.links),
        costs=estimates_from(inputs, topology.cluster_of).costs,
        cost_inputs=inputs,
        state_bytes=kv.bytes(0),
        cache_blocks=_cache_blocks(description, workload),
        machines=machines_of(description, places) if workload.blocks else (),
        lan_bytes_per_s=lan_rates(description),
        outages=_outages(experiments.failures, [e.name for e in fleet], whole=not run.instances),
        link_report_s=parse_duration(str(experiments.link_reports)),
    )


def _curve(table: Table) -> Curve:
    return Curve(table.x, table.y, table.interpolation)


def _outages(
    failures: tuple[OutageConfig, ...], engines: list[str], *, whole: bool
) -> tuple[Outage, ...]:
    """``whole``: a run on the description's own engines has every one that a failure may name;
    another split may lack some. Raises ConfigError for those of one engine that overlap."""
    found = []
    for failure in failures:
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


def _topology(description: Description, fleet: list[SimEngine]) -> Topology:
    links = []
    for link in description.links:
        with naming(f"link from {link.source!r} to {link.target!r}"):
            if link.rate is None:
                raise ConfigError("how much it carries is not known; add rate: 100 Gbps")
            rate, rtt_s = parse_rate(link.rate), parse_duration(str(link.rtt))
            links.append(LinkSpec(link.source, link.target, rate, rtt_s))
    return Topology(
        clusters=tuple(ClusterSpec(c.name, c.kind) for c in description.clusters),
        engines=tuple(_spec(engine) for engine in fleet),
        links=tuple(links),
        alignment_tokens=description.model.block_tokens,
    )


def _spec(engine: SimEngine) -> EngineSpec:
    return EngineSpec(
        engine.name,
        engine.cluster,
        engine.role,
        engine.max_batch,
        # A simulated engine queues prompts itself: what the scheduler holds back changes nothing.
        max_prefills=1_000_000,
        kv_tokens=engine.kv_tokens,
    )


def _model(engine: SimEngine) -> EngineModel:
    decode = engine.profile.decode
    return EngineModel(
        name=engine.name,
        step_seconds=None if decode is None else decode.step_seconds,
        max_batch=engine.max_batch,
        kv_tokens=float("inf") if engine.kv_tokens is None else engine.kv_tokens,
        load_seconds=None if engine.profile.load is None else engine.profile.load.seconds,
    )


def _line(link: LinkConfig, changes: tuple[LineChange, ...]) -> LineModel:
    assert link.rate is not None
    return LineModel(
        link.source,
        link.target,
        parse_rate(link.rate),
        parse_duration(str(link.rtt)),
        link.loss,
        link.connections or _CONNECTIONS,
        tuple(
            (parse_duration(str(change.at)), change.rate_bytes_per_s)
            for change in changes
            if (change.source, change.target) == (link.source, link.target)
        ),
    )


def _cache_blocks(description: Description, workload: Workload) -> dict[str, int]:
    if not workload.blocks:
        return {}
    found = {
        cluster.name: _tokens(cluster.prefix_cache) // workload.block_tokens
        for cluster in description.clusters
        if not isinstance(cluster.prefix_cache, PlannedPool) and not cluster.has_agents
    }
    return {name: blocks for name, blocks in found.items() if blocks}


def _tokens(prefix_cache: Tokens) -> int:
    return _UNBOUNDED_TOKENS if prefix_cache == "unbounded" else parse_tokens(prefix_cache)
