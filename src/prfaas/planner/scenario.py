"""A planning scenario: one YAML file with the workload, the clusters, the lines and the prices.

The file format is described in docs/planner.md; examples/paper.yaml is the paper's case study.
Loading checks what the types cannot: units, names, counts, and that every profile is long enough
for the workload. An error says where it is and what to write.
"""

from __future__ import annotations

from math import inf
from pathlib import Path

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import load_yaml, naming, parse_yaml
from prfaas.core.units import parse_bytes, parse_duration, parse_rate, parse_tokens
from prfaas.models.geometry.models import load_model
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import common_kv_size, load_profile
from prfaas.planner.demand import Demand, Expectations
from prfaas.planner.scenario_file import ScenarioFile, TraceFile, WorkloadFile
from prfaas.planner.sites import Cluster, Line
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
    """Read and check a scenario file. Raises ConfigError that says what to write."""
    return _resolve(load_yaml(path, ScenarioFile), source=str(path), beside=path.parent)


def parse_scenario(text: bytes | str, *, source: str, beside: Path) -> Scenario:
    """The same from memory; ``beside`` is the directory that relative paths start from."""
    return _resolve(parse_yaml(text, ScenarioFile, source=source), source=source, beside=beside)


def _resolve(file: ScenarioFile, *, source: str, beside: Path) -> Scenario:
    with naming(source):
        clusters = _clusters(file, beside)
        lines = _lines(file)
        with naming("workload"):
            lengths, output_tokens, hit_rate = _workload(file.workload, beside)
        _check_profiles(clusters, lengths)
        with naming("slo"):
            ttft = file.slo.ttft
            if not 0 < file.slo.tokens_per_s < inf:
                raise ConfigError("tokens_per_s must be more than 0, for example 40")
            ttft_s = None if ttft is None else parse_duration(str(ttft.within))
        demand = Demand(
            lengths=lengths,
            output_tokens=output_tokens,
            kv=_kv_size(file, clusters, beside),
            tokens_per_s=file.slo.tokens_per_s,
        )
    return Scenario(
        name=file.name,
        demand=demand,
        prefix_hit_rate=hit_rate,
        clusters=clusters,
        lines=lines,
        expectations=file.expectations,
        ttft_s=ttft_s,
        ttft_percentile=(ttft.percentile if ttft else 90) / 100,
    )


def _clusters(file: ScenarioFile, beside: Path) -> list[Cluster]:
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


def _lines(file: ScenarioFile) -> list[Line]:
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


def _workload(file: WorkloadFile, beside: Path) -> tuple[LengthDistribution, float, float]:
    """Uncached lengths, mean answer, prefix hit rate."""
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
    return lengths.scaled(1 - file.prefix_hit_rate), file.output_tokens, file.prefix_hit_rate


def _from_trace(
    file: WorkloadFile, trace: TraceFile, beside: Path
) -> tuple[LengthDistribution, float, float]:
    if file.prefix_hit_rate:
        raise ConfigError("prefix_hit_rate: leave it out, the trace's own reuse is replayed")
    cache = None if trace.prefix_cache is None else parse_tokens(trace.prefix_cache)
    found = trace_lengths(beside / trace.file, cache_tokens=cache)
    answer = file.output_tokens or found.mean_output_tokens
    return found.uncached, answer, found.hit_rate


def _check_profiles(clusters: list[Cluster], lengths: LengthDistribution) -> None:
    for cluster in clusters:
        profile = cluster.profile.prefill_or_refuse
        if lengths.high > profile.max_tokens:
            raise ConfigError(
                f"cluster {cluster.name!r}: profile {cluster.profile.name!r} ends at "
                f"{profile.max_tokens} tokens, the workload's prompts reach {lengths.high:.0f}; "
                "measure a longer prompt and add the point, or shorten the workload"
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
