"""The planning scenario as it is written: one YAML file (docs/planner.md)."""

from __future__ import annotations

from typing import Literal

import msgspec

from prfaas.core.strict import Strict
from prfaas.planner.demand import Expectations
from prfaas.workload.files import TraceSource

Text = str | int | float
"""A quantity with its unit; a bare number is accepted here so that the error can name the unit."""


class LogNormalFile(Strict, frozen=True):
    """ln(tokens) normal with mean ``mu`` and deviation ``sigma``, kept to [low, high] tokens."""

    mu: float
    sigma: float
    low: str | int
    high: str | int


class HistogramFile(Strict, frozen=True):
    """Shares of requests between rising ``edges`` in tokens; one edge more than weights."""

    edges: list[str | int]
    weights: list[float]


class TraceFile(TraceSource, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published trace; ``file`` starts from the scenario's directory."""

    prefix_cache: str | int | None = None
    """Tokens the cache holds; without it the cache is unbounded."""


class LengthsFile(Strict, frozen=True):
    """Exactly one of the three."""

    lognormal: LogNormalFile | None = None
    histogram: HistogramFile | None = None
    trace: TraceFile | None = None


class WorkloadFile(Strict, frozen=True):
    """What is asked: prompt lengths, answers, and how much of a prompt is cached."""

    lengths: LengthsFile
    output_tokens: float | None = None
    """Mean answer; a trace brings its own."""
    prefix_hit_rate: float = 0.0
    """Share of each prompt's tokens that a cache holds already; a trace brings its own."""


class TtftFile(Strict, frozen=True):
    """The ``percentile`` of TTFT that must lie ``within`` a time."""

    within: Text
    percentile: Literal[50, 90, 99] = 90


class SloFile(Strict, frozen=True):
    """``tokens_per_s``: the decode speed promised to each request; it bounds the batch."""

    tokens_per_s: float
    ttft: TtftFile | None = None


class ClusterFile(Strict, frozen=True):
    """``profile``: a built-in name, or a file that starts from the scenario's directory."""

    name: str
    kind: Literal["prfaas", "pd"]
    profile: str
    instances: int
    usd_per_gpu_hour: float | None = None


class LineFile(Strict, frozen=True):
    """One direction. ``usd_per_gb`` is per 10^9 bytes sent."""

    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    bandwidth: Text
    rtt: Text = "0 ms"
    usd_per_month: float = 0.0
    usd_per_gb: float = 0.0


class KvFile(Strict, frozen=True):
    """S_kv as two quantities of bytes."""

    constant: Text
    per_token: Text


class ScenarioFile(Strict, frozen=True):
    """The whole file; docs/planner.md has the keys."""

    name: str
    workload: WorkloadFile
    slo: SloFile
    clusters: list[ClusterFile]
    lines: list[LineFile] = msgspec.field(default_factory=list)
    model: str | None = None
    """Whose S_kv; without it and without ``kv``, the profiles say."""
    kv: KvFile | None = None
    kv_dtype: str | None = None
    state_dtype: str | None = None
    expectations: Expectations = "mean-length"
