"""What is asked of a deployment, as it is written: prompts, answers, arrivals."""

from __future__ import annotations

from math import inf

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.planned import Quantity, Tokens
from prfaas.core.strict import Strict, naming
from prfaas.core.units import parse_duration, parse_tokens
from prfaas.workload.arrivals import Arrivals, Process
from prfaas.workload.files import TraceSource
from prfaas.workload.lengths import HistogramLengths, LengthDistribution, TruncatedLogNormal

_LONGEST_ANSWER, _MOST_REQUESTS, _MOST_FASTER = 1 << 24, 100_000_000, 1e6
"""What is beyond them takes memory or time without end."""


class LogNormalConfig(Strict, frozen=True):
    """ln(tokens) normal with mean ``mu`` and deviation ``sigma``, kept to [low, high] tokens. The
    defaults are the paper's."""

    mu: float = 9.9
    sigma: float = 1.0
    low: Tokens = 128
    high: Tokens = "128K"


class HistogramConfig(Strict, frozen=True):
    """Shares of requests between rising ``edges`` in tokens; one edge more than weights."""

    edges: list[Tokens]
    weights: list[float]


class LengthsConfig(Strict, frozen=True):
    """Prompt lengths: exactly one of the two."""

    lognormal: LogNormalConfig | None = None
    histogram: HistogramConfig | None = None

    def distribution(self) -> LengthDistribution:
        """To integrate over and draw from. Raises ConfigError."""
        if (self.lognormal is None) == (self.histogram is None):
            raise ConfigError("lengths: give exactly one of lognormal, histogram (or a trace)")
        if self.histogram is not None:
            edges = [parse_tokens(edge) for edge in self.histogram.edges]
            return HistogramLengths(edges, self.histogram.weights)
        assert self.lognormal is not None
        found = self.lognormal
        low, high = parse_tokens(found.low), parse_tokens(found.high)
        return TruncatedLogNormal(found.mu, found.sigma, low, high)


class ArrivalConfig(Strict, frozen=True):
    """``rate``: requests per second. ``variation``: of bursty gaps. ``swing``, ``period``: of a
    diurnal rate."""

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
    """Drawn requests, or a ``trace``: a path, or what `TraceSource` says of one. A gateway's
    journal is a trace too.

    ``output_tokens``: the mean answer; a trace brings its own. ``prefix_hit_rate``: the share of
    each drawn prompt that a cache holds. ``requests``: how many the simulator draws; a recorded
    trace is replayed whole. ``speed_up``: requests arrive this much faster.
    """

    lengths: LengthsConfig | None = None
    output_tokens: float | None = None
    prefix_hit_rate: float = 0.0
    trace: str | TraceSource | None = None
    arrivals: ArrivalConfig | None = None
    requests: int = 10_000
    speed_up: float = 1.0

    @property
    def source(self) -> TraceSource | None:
        """The trace, if the workload is one."""
        return TraceSource(file=self.trace) if isinstance(self.trace, str) else self.trace

    def uncached_lengths(self) -> LengthDistribution:
        """Of drawn requests: what of each prompt no cache holds. Raises ConfigError."""
        if self.lengths is None:
            raise ConfigError("write lengths: {lognormal: {...}}, or trace: FILE")
        return self.lengths.distribution().scaled(1 - self.prefix_hit_rate)

    def answer_tokens(self) -> float:
        """The mean answer of drawn requests. Raises ConfigError where none is given."""
        if self.output_tokens is None:
            raise ConfigError("output_tokens: the mean answer is needed, for example 1024")
        return self.output_tokens

    def check(self) -> None:
        """Raises ConfigError for what the types cannot say."""
        if self.lengths is not None and self.trace is not None:
            raise ConfigError("lengths and trace exclude each other; leave one of them out")
        if self.output_tokens is not None and not 1 <= self.output_tokens <= _LONGEST_ANSWER:
            most = f"up to {_LONGEST_ANSWER}"
            raise ConfigError(f"output_tokens: {self.output_tokens:g}; write 1 or more, {most}")
        if not 0 <= self.prefix_hit_rate < 1:
            raise ConfigError(f"prefix_hit_rate: {self.prefix_hit_rate:g}; write a share below 1")
        if self.trace is not None and self.prefix_hit_rate:
            raise ConfigError("prefix_hit_rate: leave it out, the trace's own reuse is replayed")
        if not 1 <= self.requests <= _MOST_REQUESTS:
            most = f"up to {_MOST_REQUESTS}"
            raise ConfigError(f"requests: {self.requests}; write 1 or more, {most}")
        if not 0 < self.speed_up < inf:
            raise ConfigError(f"speed_up: {self.speed_up:g}; write more than 0")
        if not 1 / _MOST_FASTER <= self.speed_up <= _MOST_FASTER:
            fewer, more = 1 / _MOST_FASTER, _MOST_FASTER
            raise ConfigError(f"speed_up: {self.speed_up:g}; write {fewer:g} to {more:g}")
        if self.lengths is not None:
            with naming("lengths"):
                self.lengths.distribution()
        if self.arrivals is not None:
            with naming("arrivals"):
                self.arrivals.arrivals()


def with_trace(
    workload: WorkloadConfig | None, source: TraceSource | None, told: dict[str, object]
) -> WorkloadConfig | None:
    """The workload with another trace (None: its own), some fields of which are replaced.

    Raises ConfigError for fields of a trace where there is none.
    """
    found = workload or WorkloadConfig()
    if source is not None:  # Its lengths and answers are its own; arrivals serve if it has none.
        found = msgspec.structs.replace(
            found, trace=source, lengths=None, output_tokens=None, prefix_hit_rate=0.0
        )
    elif workload is None or (source := workload.source) is None:
        if told:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in told)
            raise ConfigError(f"{options}: only of a trace; name one with --trace")
        return workload
    return msgspec.structs.replace(found, trace=msgspec.structs.replace(source, **told))
