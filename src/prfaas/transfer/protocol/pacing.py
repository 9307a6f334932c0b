"""Pacing: payload bytes leave at a rate, without bursts.

Theory of operation. ``spend`` pushes the moment at which the next byte is due; a sender that comes
late may catch up on at most `_CATCH_UP_S` of lost time. This decides *when a chunk is handed to a
connection*, and holds the sum over connections to the rate. Inside a chunk the kernel spreads the
packets (SO_MAX_PACING_RATE): `connection_rates` divides the rate so that the connections together
cannot exceed it, and what one connection cannot use goes to the others.
"""

from __future__ import annotations

from collections.abc import Mapping

_CATCH_UP_S = 0.01


class Pacer:
    """``rate_bytes_per_s`` None: no limit."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self._due_at = 0.0

    def ready_at(self, *, now: float) -> float:
        """When the next chunk may go; not after ``now`` means at once."""
        return now if self.rate_bytes_per_s is None else max(self._due_at, now)

    def spend(self, count: int, *, now: float) -> None:
        """``count`` payload bytes have been handed to a connection."""
        if self.rate_bytes_per_s is not None:
            start = max(self._due_at, now - _CATCH_UP_S)
            self._due_at = start + count / self.rate_bytes_per_s


def connection_rates(
    rate_bytes_per_s: float, delivered_bytes_per_s: Mapping[int, float]
) -> dict[int, float]:
    """The rate divided among connections by what each has delivered lately.

    A connection keeps at least half of an even share, so a recovering one can show what it can do;
    the rest follows demonstrated delivery. The results add up to the rate.
    """
    count = len(delivered_bytes_per_s)
    if not count:
        return {}
    floor = rate_bytes_per_s / count / 2
    total = sum(delivered_bytes_per_s.values())
    rest = rate_bytes_per_s - floor * count
    return {
        number: floor + (rest * delivered / total if total > 0 else rest / count)
        for number, delivered in delivered_bytes_per_s.items()
    }


class CapacityEstimate:
    """What the line can carry, for a limit that leaves a share of it to others.

    The largest goodput of the last `_MEMORY_S`. A limit below capacity would hide the capacity, so
    for `_PROBE_S` of every `_PROBE_EVERY_S` the limit is lifted to 1.25 times the estimate.
    """

    _MEMORY_S, _PROBE_EVERY_S, _PROBE_S = 30.0, 10.0, 0.3

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []

    def observe(self, goodput_bytes_per_s: float, *, now: float) -> None:
        """A goodput measured while there was more to send."""
        kept = [s for s in self._samples if now - s[0] < self._MEMORY_S]
        # Only samples that no later one exceeds can ever be the maximum.
        self._samples = [s for s in kept if s[1] > goodput_bytes_per_s]
        self._samples.append((now, goodput_bytes_per_s))

    def limit(self, leave_to_others: float, *, now: float) -> float | None:
        """The rate that leaves the share free; None while nothing has been measured."""
        if not self._samples:
            return None
        capacity = self._samples[0][1]
        probing = now % self._PROBE_EVERY_S < self._PROBE_S
        return capacity * (1.25 if probing else 1.0 - leave_to_others)
