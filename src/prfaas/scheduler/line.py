"""What the scheduler knows of one direction of a line. Mutable."""

from __future__ import annotations

from math import inf
from typing import TypeVar

from prfaas.policies.line_facts import LineFacts
from prfaas.policies.line_rate import LineRate
from prfaas.scheduler.clock import Clock
from prfaas.scheduler.topology import LinkSpec

R = TypeVar("R")


class Line(LineFacts[R]):
    """What is known of one direction of a line, as a `LinkView`."""

    def __init__(self, spec: LinkSpec, clock: Clock) -> None:
        rate = inf if spec.rate_bytes_per_s is None else spec.rate_bytes_per_s
        super().__init__(rate, spec.rtt_s)
        self.source, self.target = spec.source, spec.target
        self.down_since = inf
        self.slow_since = inf
        """Since when it carries much less than it should; infinite: it does not."""
        self.carried_at = -inf
        """When bytes of any hand-off were last said to have arrived."""
        self.configured_bytes_per_s = rate
        self._clock = clock
        self.utilisation = self.congestion = 0.0

    def configure(self, spec: LinkSpec) -> None:
        """The file says another rate. What was measured below it stays as it is."""
        rate = inf if spec.rate_bytes_per_s is None else spec.rate_bytes_per_s
        if self.rate_bytes_per_s == self.configured_bytes_per_s or self.rate_bytes_per_s > rate:
            self.rate = LineRate(rate)
        self.configured_bytes_per_s = rate

    def blame(self, since: float) -> None:
        """A hand-off's bytes have rested since then. Where others' have moved, one of its ends is
        to blame; where none has, the line is, whatever is measured: it may break each time before
        there is something to measure."""
        if self.carried_at <= since:
            self.rate.stands(self._clock.now)

    @property
    def rate_bytes_per_s(self) -> float:
        """See `LinkView`."""
        return self.rate.at(self._clock.now)

    @property
    def transfers(self) -> int:
        """See `LinkView`."""
        return len(self.records)
