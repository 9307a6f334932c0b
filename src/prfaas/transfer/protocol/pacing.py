"""Pacing: payload bytes leave at a rate, without bursts.

Theory of operation. ``spend`` pushes the moment at which the next byte is due; a sender that comes
late may catch up on at most `_CATCH_UP_S` of lost time. This decides *when a chunk is handed to a
connection*, and holds the sum over connections to the rate over every second. What leaves within
milliseconds is the kernel's part: it spreads each connection's packets (SO_MAX_PACING_RATE at
`connection_rate`), so what is caught up leaves little faster than the rate.
"""

from __future__ import annotations

_CATCH_UP_S = 0.025
_HEADROOM, _HEADROOM_ALONE = 1.1, 1.02


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


def connection_rate(rate_bytes_per_s: float, connections: int) -> float:
    """What the kernel may spread one connection's packets at.

    A connection alone: the rate and a fiftieth more, since a congestion controller that never sees
    more than its share settles below it. Of several, each its even share and a tenth more, so that
    a slow one's part can move to the others.
    """
    headroom = _HEADROOM if connections > 1 else _HEADROOM_ALONE
    return headroom * rate_bytes_per_s / max(connections, 1)


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
