"""A description ready to plan with: demand, clusters with profiles, lines, prices.

The file is `prfaas.description`'s (docs/planner.md); examples/paper.yaml is the paper's case study.
Here is checked what its types cannot say: that every profile is long enough for the workload, that
every line has a rate and every PrfaaS cluster a line.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from prfaas.core.planned import PlannedPool
from prfaas.core.strict import naming
from prfaas.core.units import parse_tokens
from prfaas.description.caches import machines_of
from prfaas.description.engines import engine_names
from prfaas.description.file import Description, load_description, parse_description
from prfaas.description.speeds import check_longest, kv_size_of
from prfaas.description.workload import WorkloadConfig
from prfaas.models.kv_size import KvSize
from prfaas.planner.demand import Demand, Expectations
from prfaas.planner.hardware import clusters_of, lines_of
from prfaas.planner.pool_site import PoolSite, is_walked, site_of
from prfaas.planner.sites import Cluster, Line
from prfaas.workload.files import TraceSource, clip_note
from prfaas.workload.lengths import LengthDistribution
from prfaas.workload.reuse import trace_lengths
from prfaas.workload.trace import RecordedTrace


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario ready to compute with."""

    name: str
    demand: Demand
    prefix_hit_rate: float
    clusters: list[Cluster]
    lines: list[Line]
    expectations: Expectations
    ttft_s: float | None
    ttft_percentile: float
    site: PoolSite | None = None
    """Where a trace's prefixes are cached, machine by machine; None where that is not walked."""
    notes: list[str] = []
    """What was done to the workload that a reader of the plan must know."""

    @property
    def prfaas(self) -> list[Cluster]:
        """Clusters that only prefill, in the file's order."""
        return [cluster for cluster in self.clusters if cluster.kind == "prfaas"]

    @property
    def pd(self) -> list[Cluster]:
        """Clusters that prefill and decode, in the file's order."""
        return [cluster for cluster in self.clusters if cluster.kind == "pd"]

    @property
    def is_two_clusters(self) -> bool:
        """One PrfaaS cluster, one PD cluster, one line: the paper's case."""
        return len(self.prfaas) == len(self.pd) == len(self.lines) == 1


def load_scenario(path: Path) -> Scenario:
    """Read, check and resolve a description. Raises ConfigError that says what to write."""
    return scenario_of(load_description(path), source=str(path), beside=path.parent)


def parse_scenario(text: bytes | str, *, source: str, beside: Path) -> Scenario:
    """The same from memory; ``beside`` is the directory that relative paths start from."""
    description = parse_description(text, source=source)
    return scenario_of(description, source=source, beside=beside)


def scenario_of(description: Description, *, source: str, beside: Path) -> Scenario:
    """The description as the planner computes with it.

    Args:
        source: names the description in errors.
        beside: where relative paths start.
    Raises ConfigError that says what to write.
    """
    with naming(source):
        clusters = clusters_of(description, beside)
        lines = lines_of(description)
        asked = description.asked
        kv = kv_size_of(description.model, [c.profile for c in clusters], beside=beside)
        with naming("workload"):
            workload = _workload(asked, description, kv, beside)
        for cluster in clusters:
            longest = workload.lengths.high
            if workload.site is not None:  # What is found of a prompt is not the same everywhere.
                longest = max(workload.site.trace.prompts)
            check_longest(f"cluster {cluster.name!r}", cluster.profile, longest)
        demand = Demand(
            lengths=workload.lengths,
            output_tokens=workload.output_tokens,
            kv=kv,
            tokens_per_s=1 / description.slo.tpot_s,
        )
    return Scenario(
        name=description.name or source,
        demand=demand,
        prefix_hit_rate=workload.hit_rate,
        clusters=clusters,
        lines=lines,
        expectations=description.experiments.expectations,
        ttft_s=description.slo.ttft_s,
        ttft_percentile=description.slo.ttft_percentile / 100,
        site=workload.site,
        notes=workload.notes,
    )


class _Workload(msgspec.Struct, frozen=True, kw_only=True):
    lengths: LengthDistribution
    """Uncached tokens."""
    output_tokens: float
    hit_rate: float
    site: PoolSite | None = None
    notes: list[str] = []


def _workload(
    asked: WorkloadConfig, description: Description, kv: KvSize, beside: Path
) -> _Workload:
    if asked.source is not None:
        return _from_trace(asked, asked.source, description, kv, beside)
    return _Workload(
        lengths=asked.uncached_lengths(),
        output_tokens=asked.answer_tokens(),
        hit_rate=asked.prefix_hit_rate,
        notes=_pool_notes(description, knows_prefixes=False),
    )


def _from_trace(
    asked: WorkloadConfig, trace: TraceSource, description: Description, kv: KvSize, beside: Path
) -> _Workload:
    read = trace.read(beside)
    mean = float(np.mean(read.prompts)) if isinstance(read, RecordedTrace) else 1.0
    found = trace_lengths(read, cache_tokens=_cache_tokens(description, kv.bytes(mean) / mean))
    notes = [] if trace.clip is None else [clip_note(trace.clip, read.clipped_share)]
    blocks = read.blocks if isinstance(read, RecordedTrace) else []
    site = (
        site_of(description, read, kv, beside=beside) if isinstance(read, RecordedTrace) else None
    )
    return _Workload(
        lengths=found.uncached,
        output_tokens=asked.output_tokens or found.mean_output_tokens,
        hit_rate=found.hit_rate,
        site=site,
        notes=notes + _pool_notes(description, knows_prefixes=bool(blocks)),
    )


def _pool_notes(description: Description, *, knows_prefixes: bool) -> list[str]:
    if not any(cluster.has_agents for cluster in description.clusters):
        return []
    if not knows_prefixes:
        return ["the workload does not say which prompts share a prefix: agents' caches hold none"]
    if not is_walked(description):
        return [
            "agents' caches are taken as one, as large as the PD clusters' together, and loads are "
            "not counted: a trace is walked through them with one PD cluster that has some, at "
            "most one PrfaaS cluster, and caches of machines alone"
        ]
    return [
        f"cluster {cluster.name!r} has no lan.rate: what its machines pull from each other takes "
        "no time"
        for cluster in description.clusters
        if cluster.kind == "pd" and cluster.lan.rate is None
    ]


def _cache_tokens(description: Description, bytes_per_token: float) -> int | None:
    """One cache as large as those of the PD clusters together: there every conversation leaves its
    blocks. None: unbounded. Of agents what their memory holds, or their disk, where what is in
    memory lies as well."""
    tokens = 0
    for cluster in description.clusters:
        if cluster.kind != "pd":
            continue
        if cluster.prefix_cache == "unbounded":
            return None
        if isinstance(cluster.prefix_cache, PlannedPool) or cluster.has_agents:
            names = {name: cluster.name for name, _ in engine_names(cluster)}
            machines = [m for m in machines_of(description, names) if m.cluster == cluster.name]
            size = sum(max(m.cache_bytes, m.disk_bytes) for m in machines)
            tokens += int(size / bytes_per_token)
        else:
            tokens += parse_tokens(cluster.prefix_cache)
    return tokens
