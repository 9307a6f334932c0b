"""What a sender knows of a line: smoothed telemetry, and a congestion signal that comes early.

Theory of operation. Every 100 ms the driver gives a `LineSample` (acknowledged bytes, what the
kernel says of each connection, what is queued). Goodput is the rate of acknowledged bytes, smoothed
over about half a second. Capacity is the limit if one is set, else the largest goodput seen lately
while there was more to send. Work comes in bursts, so goodput is smoothed a second time over busy
time alone: that is what the line carries, however long the pauses between.

``congestion`` combines four signs, each 0 to 1, as independent risks (1 - product of complements):
utilisation above one half (it rises while queues are still empty), RTT above its minimum (queues in
the network), retransmissions, and the time our own queue needs at the present rate. The last says
most where there has been more to send for a while: what the line carries is known then. It may be
far less than it was with nothing to be seen in the first three, where a hop on the way takes bytes
in and passes few of them on. It is smoothed: up within 0.2 s, down within 1 s, so a scheduler can
act on it without flapping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SAMPLE_S = 0.1
_GOODPUT_S, _UP_S, _DOWN_S = 0.5, 0.2, 1.0
"""Smoothing, see above: goodput, congestion as it rises, congestion as it falls."""
_RTT_FLOOR_S = 0.005
"""RTT changes below this are scheduling noise, not queues."""
_MIN_RTT_MEMORY_S = 60.0
"""A route may change: a least RTT older than this is forgotten."""
_QUEUE_FULL_S = 2.0
"""A queue of our own that needs so long weighs as much as one can."""
_LASTING_S = 1.0
"""There has been more to send for so long: what has been acknowledged meanwhile is no burst and no
connection's slow start."""
_RETRANSMITS_FULL = 0.02
"""Share of segments sent again that counts as fully congested."""


@dataclass(frozen=True, slots=True)
class ConnectionSample:
    """The kernel's view of one connection (TCP_INFO), totals since it was opened."""

    rtt_s: float
    min_rtt_s: float
    segments_sent: int
    retransmits: int
    delivery_rate_bytes_per_s: float
    unsent_bytes: int
    window_bytes: int
    sent_bytes: int


@dataclass(frozen=True, slots=True)
class LineSample:
    """One look at the line. ``acknowledged_bytes``: the total since the start."""

    acknowledged_bytes: int
    queued_bytes: int
    limit_bytes_per_s: float | None
    connections: tuple[ConnectionSample, ...]


@dataclass(frozen=True, slots=True)
class LineView:
    """The line as it is now, smoothed. ``utilisation``, ``retransmit_share`` and ``congestion`` are
    0 to 1; ``backlogged``: there is more to send than the connections take."""

    goodput_bytes_per_s: float = 0.0
    utilisation: float = 0.0
    rtt_s: float = 0.0
    min_rtt_s: float = 0.0
    retransmit_share: float = 0.0
    congestion: float = 0.0
    backlogged: bool = False
    busy: bool = False
    """There was more to send ever since a round trip before the last sample, so what has been
    acknowledged since is what the line carries."""
    busy_goodput_bytes_per_s: float = 0.0


class LineMonitor:
    """Feed it ``observe`` at a steady pace; read ``view``."""

    def __init__(self) -> None:
        self.view = LineView()
        self._at: float | None = None
        self._acknowledged = self._segments = self._retransmits = 0
        self._min_rtt: tuple[float, float] | None = None
        self._peak: tuple[float, float] = (0.0, 0.0)
        self._busy_since = math.inf

    def observe(self, sample: LineSample, *, now: float) -> LineView:
        """Take a sample; returns the new view."""
        span_s = _SAMPLE_S if self._at is None else max(now - self._at, 1e-3)
        last, self._at = self.view, now
        fresh = (sample.acknowledged_bytes - self._acknowledged) / span_s
        self._acknowledged = sample.acknowledged_bytes
        goodput = _smooth(last.goodput_bytes_per_s, fresh, span_s, _GOODPUT_S)
        rtt_s, min_rtt_s = self._round_trip(sample, last, now)
        share = _smooth(last.retransmit_share, self._retransmitted(sample), span_s, _GOODPUT_S)
        unsent = sum(c.unsent_bytes for c in sample.connections)
        backlogged = sample.queued_bytes > 0 or unsent > 0
        self._busy_since = min(self._busy_since, now) if backlogged else math.inf
        busy = now - self._busy_since >= rtt_s + span_s
        busy_goodput = last.busy_goodput_bytes_per_s
        if busy:
            busy_goodput = _smooth(busy_goodput, fresh, span_s, _GOODPUT_S)
        capacity = sample.limit_bytes_per_s or self._capacity(goodput, backlogged, now)
        utilisation = min(goodput / capacity, 1.0) if capacity else 0.0
        lasting = busy and now - self._busy_since >= _LASTING_S
        pace = busy_goodput if lasting else max(goodput, capacity or 0.0)
        drain_s = (sample.queued_bytes + unsent) / max(pace, 1.0)
        signs = (
            0.8 * _ramp(utilisation, 0.5, 1.0),
            _ramp(rtt_s - min_rtt_s, _RTT_FLOOR_S, _RTT_FLOOR_S + max(min_rtt_s, _RTT_FLOOR_S)),
            _ramp(share, 0.0, _RETRANSMITS_FULL),
            (1.0 if lasting else 0.5) * _ramp(drain_s, 0.0, _QUEUE_FULL_S),
        )
        level = 1.0 - math.prod(1.0 - sign for sign in signs)
        pace_s = _UP_S if level > last.congestion else _DOWN_S
        congestion = _smooth(last.congestion, level, span_s, pace_s)
        self.view = LineView(
            goodput_bytes_per_s=goodput,
            utilisation=utilisation,
            rtt_s=rtt_s,
            min_rtt_s=min_rtt_s,
            retransmit_share=share,
            congestion=congestion,
            backlogged=backlogged,
            busy=busy,
            busy_goodput_bytes_per_s=busy_goodput,
        )
        return self.view

    def _round_trip(self, sample: LineSample, last: LineView, now: float) -> tuple[float, float]:
        """Median RTT over connections, and the least of the last minute."""
        measured = sorted(c.rtt_s for c in sample.connections if c.rtt_s > 0)
        if not measured:
            return last.rtt_s, last.min_rtt_s
        least = min(c.min_rtt_s or c.rtt_s for c in sample.connections if c.rtt_s > 0)
        known = self._min_rtt
        if known is None or least <= known[0] or now - known[1] > _MIN_RTT_MEMORY_S:
            self._min_rtt = known = (least, now)
        return measured[len(measured) // 2], known[0]

    def _retransmitted(self, sample: LineSample) -> float:
        segments = sum(c.segments_sent for c in sample.connections)
        retransmits = sum(c.retransmits for c in sample.connections)
        # A connection that has gone takes its totals with it.
        sent = max(segments - self._segments, 0)
        again = max(retransmits - self._retransmits, 0)
        self._segments, self._retransmits = segments, retransmits
        return min(again / sent, 1.0) if sent else 0.0

    def _capacity(self, goodput: float, backlogged: bool, now: float) -> float | None:
        peak, at = self._peak
        if goodput >= peak or (backlogged and now - at > _MIN_RTT_MEMORY_S):
            self._peak = peak, at = goodput, now
        return peak or None


def _smooth(old: float, new: float, span_s: float, over_s: float) -> float:
    return old + (new - old) * (1.0 - math.exp(-span_s / over_s))


def _ramp(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)
