"""A planning scenario: one YAML file with the workload, the clusters, the lines and the prices.

The file format is described in docs/planner.md; examples/paper.yaml is the paper's case study.
Loading checks what the types cannot: units, names, counts, and that every profile is long enough
for the workload. An error says where it is and what to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml, naming, parse_yaml
from prfaas.core.units import parse_bytes, parse_duration, parse_tokens
from prfaas.models.geometry.models import load_model
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import common_kv_size
from prfaas.planner.demand import Demand, Expectations
from prfaas.planner.hardware import clusters_of, lines_of
from prfaas.planner.scenario_file import ScenarioFile, TraceFile, WorkloadFile
from prfaas.planner.sites import Cluster, Line
from prfaas.workload.files import clip_note
from prfaas.workload.lengths import (
    HistogramLengths,
    LengthDistribution,
    TruncatedLogNormal,
)
from prfaas.workload.reuse import trace_lengths


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


def load_scenario(path: Path, *, told: Mapping[str, Any] | None = None) -> Scenario:
    """Read and check a scenario file.

    Args:
        told: fields of its trace (`TraceSource`) that are replaced, as the command line says.
    Raises ConfigError that says what to write.
    """
    file = load_yaml(path, ScenarioFile)
    if told:
        trace = file.workload.lengths.trace
        if trace is None:
            raise ConfigError(f"{path}: {', '.join(told)}: the workload is no trace")
        replace = msgspec.structs.replace
        lengths = replace(file.workload.lengths, trace=replace(trace, **told))
        file = replace(file, workload=replace(file.workload, lengths=lengths))
    return _resolve(file, source=str(path), beside=path.parent)


def parse_scenario(text: bytes | str, *, source: str, beside: Path) -> Scenario:
    """The same from memory; ``beside`` is the directory that relative paths start from."""
    return _resolve(parse_yaml(text, ScenarioFile, source=source), source=source, beside=beside)


def _resolve(file: ScenarioFile, *, source: str, beside: Path) -> Scenario:
    with naming(source):
        clusters = clusters_of(file, beside)
        lines = lines_of(file)
        with naming("workload"):
            workload = _workload(file.workload, beside)
        _check_profiles(clusters, workload.lengths)
        with naming("slo"):
            ttft = file.slo.ttft
            if not 0 < file.slo.tokens_per_s < inf:
                raise ConfigError("tokens_per_s must be more than 0, for example 40")
            ttft_s = None if ttft is None else parse_duration(str(ttft.within))
        demand = Demand(
            lengths=workload.lengths,
            output_tokens=workload.output_tokens,
            kv=_kv_size(file, clusters, beside),
            tokens_per_s=file.slo.tokens_per_s,
        )
    return Scenario(
        name=file.name,
        demand=demand,
        prefix_hit_rate=workload.hit_rate,
        clusters=clusters,
        lines=lines,
        expectations=file.expectations,
        ttft_s=ttft_s,
        ttft_percentile=(ttft.percentile if ttft else 90) / 100,
        notes=workload.notes,
    )


class _Workload(msgspec.Struct, frozen=True, kw_only=True):
    lengths: LengthDistribution
    """Uncached tokens."""
    output_tokens: float
    hit_rate: float
    notes: list[str] = []


def _workload(file: WorkloadFile, beside: Path) -> _Workload:
    lognormal, histogram, trace = (
        file.lengths.lognormal,
        file.lengths.histogram,
        file.lengths.trace,
    )
    if sum(given is not None for given in (lognormal, histogram, trace)) != 1:
        raise ConfigError("lengths: give exactly one of lognormal, histogram, trace")
    if file.output_tokens is not None and not 0 < file.output_tokens < inf:
        raise ConfigError(f"output_tokens: {file.output_tokens:g}; write more than 0")
    if trace is not None:
        return _from_trace(file, trace, beside)
    if file.output_tokens is None:
        raise ConfigError("output_tokens: the mean answer is needed, for example 1024")
    if not 0 <= file.prefix_hit_rate < 1:
        raise ConfigError(f"prefix_hit_rate: {file.prefix_hit_rate}; write a share below 1")
    lengths: LengthDistribution
    if lognormal is not None:
        low, high = parse_tokens(lognormal.low), parse_tokens(lognormal.high)
        lengths = TruncatedLogNormal(lognormal.mu, lognormal.sigma, low, high)
    else:
        assert histogram is not None
        edges = [parse_tokens(edge) for edge in histogram.edges]
        lengths = HistogramLengths(edges, histogram.weights)
    return _Workload(
        lengths=lengths.scaled(1 - file.prefix_hit_rate),
        output_tokens=file.output_tokens,
        hit_rate=file.prefix_hit_rate,
    )


def _from_trace(file: WorkloadFile, trace: TraceFile, beside: Path) -> _Workload:
    if file.prefix_hit_rate:
        raise ConfigError("prefix_hit_rate: leave it out, the trace's own reuse is replayed")
    cache = None if trace.prefix_cache is None else parse_tokens(trace.prefix_cache)
    read = trace.read(beside)
    found = trace_lengths(read, cache_tokens=cache)
    return _Workload(
        lengths=found.uncached,
        output_tokens=file.output_tokens or found.mean_output_tokens,
        hit_rate=found.hit_rate,
        notes=[] if trace.clip is None else [clip_note(trace.clip, read.clipped_share)],
    )


def _check_profiles(clusters: list[Cluster], lengths: LengthDistribution) -> None:
    for cluster in clusters:
        profile = cluster.profile.prefill_or_refuse
        if lengths.high > profile.max_tokens:
            raise ConfigError(
                f"cluster {cluster.name!r}: profile {cluster.profile.name!r} ends at "
                f"{profile.max_tokens} tokens, the workload's prompts reach {lengths.high:.0f}; "
                "measure a longer prompt and add the point, or shorten the workload (a trace: with "
                f"--clip {profile.max_tokens})"
            )


def _kv_size(file: ScenarioFile, clusters: list[Cluster], beside: Path) -> KvSize:
    if file.kv is not None:
        with naming("kv"):
            return KvSize(parse_bytes(str(file.kv.constant)), parse_bytes(str(file.kv.per_token)))
    if file.model is not None:
        local = beside / file.model
        name = str(local) if local.exists() else file.model
        return load_model(name).kv_size(kv_dtype=file.kv_dtype, state_dtype=file.state_dtype)
    profiles = [cluster.profile for cluster in clusters]
    return common_kv_size(profiles, kv_dtype=file.kv_dtype, state_dtype=file.state_dtype)
