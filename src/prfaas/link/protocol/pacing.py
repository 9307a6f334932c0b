"""Pacing: payload bytes leave at a rate, without bursts.

Theory of operation. What was spent last must be paid for, at the present rate, before the next byte
is due; a sender that comes late may catch up on at most `_CATCH_UP_S` of lost time. This decides
*when a chunk is handed to a connection*, and holds the sum over connections to the rate over every
second. What leaves within milliseconds is the kernel's part: it spreads each connection's packets
(SO_MAX_PACING_RATE at `connection_rate`), so what is caught up leaves little faster than the rate.
"""

from __future__ import annotations

import math

_CATCH_UP_S = 0.025
"""A thread on a busy machine gets its core a few milliseconds late; more than this is no jitter."""
_HEADROOM, _HEADROOM_ALONE = 1.1, 1.02
"""See `connection_rate`."""


class Pacer:
    """``rate_bytes_per_s`` may change at any time. None: no limit; 0: nothing goes."""

    def __init__(self, rate_bytes_per_s: float | None) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self._spent_at, self._spent = 0.0, 0

    def ready_at(self, *, now: float) -> float:
        """When the next chunk may go; not after ``now`` means at once."""
        return max(self._due_at(), now)

    def spend(self, count: int, *, now: float) -> None:
        """``count`` payload bytes that were due have been handed to a connection."""
        self._spent_at, self._spent = max(self._due_at(), now - _CATCH_UP_S), count

    def _due_at(self) -> float:
        if self.rate_bytes_per_s is None:
            return -math.inf
        if self.rate_bytes_per_s <= 0.0:
            return math.inf
        return self._spent_at + self._spent / self.rate_bytes_per_s


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

    The largest goodput of the last `_KEPT` samples of a busy line, which are 30 s of work: an idle
    line teaches nothing and forgets nothing. The first `_WARM` rise from nothing and are not
    believed. A limit below capacity would hide the capacity, so for `_PROBE_S` of every
    `_PROBE_EVERY_S` the limit is lifted to 1.25 times the estimate, long enough for the smoothed
    goodput to follow; and it never falls below `_LEAST`, from where it can rise again.
    """

    _KEPT, _WARM = 300, 20
    _PROBE_EVERY_S, _PROBE_S = 10.0, 1.0
    _LEAST = 65536.0

    def __init__(self) -> None:
        self._seen = 0
        self._samples: list[tuple[int, float]] = []

    def observe(self, goodput_bytes_per_s: float) -> None:
        """What a line that is busy now carries (`LineView.busy_goodput_bytes_per_s`), every 100 ms
        while it is."""
        self._seen += 1
        kept = [s for s in self._samples if self._seen - s[0] < self._KEPT]
        # Only samples that no later one exceeds can ever be the maximum.
        self._samples = [s for s in kept if s[1] > goodput_bytes_per_s]
        self._samples.append((self._seen, goodput_bytes_per_s))

    def limit(self, leave_to_others: float, *, now: float) -> float | None:
        """The rate that leaves the share free; None while too little has been measured."""
        if self._seen < self._WARM:
            return None
        capacity = self._samples[0][1]
        probing = now % self._PROBE_EVERY_S < self._PROBE_S
        return max(capacity * (1.25 if probing else 1.0 - leave_to_others), self._LEAST)
