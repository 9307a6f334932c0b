"""What the scheduler knows of one direction of a line. Mutable."""

from __future__ import annotations

from math import inf
from typing import Generic, TypeVar

from prfaas.scheduler.clock import Clock
from prfaas.scheduler.line_rate import LineRate
from prfaas.scheduler.topology import LinkSpec

R = TypeVar("R")


class Line(Generic[R]):
    """A `LinkView`, and the records ``R`` of the requests whose KV cache is to cross it."""

    def __init__(self, spec: LinkSpec, clock: Clock) -> None:
        self.source, self.target = spec.source, spec.target
        self.up = True
        self.down_since = inf
        self.slow_since = inf
        """Since when it carries much less than it should; infinite: it does not."""
        rate = spec.rate_bytes_per_s
        self.configured_bytes_per_s = inf if rate is None else rate
        self.rate = LineRate(self.configured_bytes_per_s)
        self._clock = clock
        self.rtt_s = spec.rtt_s
        self.utilisation = self.congestion = 0.0
        self.outstanding_bytes = 0.0
        self.records: dict[str, R] = {}

    def configure(self, spec: LinkSpec) -> None:
        """The file says another rate. What was measured below it stays as it is."""
        rate = inf if spec.rate_bytes_per_s is None else spec.rate_bytes_per_s
        if self.rate_bytes_per_s == self.configured_bytes_per_s or self.rate_bytes_per_s > rate:
            self.rate = LineRate(rate)
        self.configured_bytes_per_s = rate

    @property
    def rate_bytes_per_s(self) -> float:
        """See `LinkView`."""
        return self.rate.at(self._clock.now)

    @property
    def transfers(self) -> int:
        """See `LinkView`."""
        return len(self.records)
