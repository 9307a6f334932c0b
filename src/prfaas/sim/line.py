"""One direction of a line between two clusters, shared by the transfers that cross it.

Theory of operation. A fluid model, exact between events. A transfer becomes sendable while its
prefill runs: what the prefill engine had cached at once, the rest of the growing KV cache evenly
over the prefill (it leaves layer by layer and chunk by chunk, so a chunk's delay is small against
the whole), the recurrent state only at the end. A transfer with a backlog takes all it can get; one
that has caught up sends at the rate it is produced. The line's rate is shared fairly between them
(max-min: nobody gets more while another wants more and has less). Rates change only when a transfer
starts, catches up, ends its prefill or drains, or when the line itself changes: those are the
events. The last byte arrives half a round trip after it was sent.

Loss on the line costs the lost share of the rate, and bounds each TCP connection by the window that
loss allows: 1.22 MSS / (RTT sqrt(loss)) (Mathis et al., 1997).
"""

from __future__ import annotations

from array import array
from bisect import insort_right
from collections.abc import Callable
from math import inf, sqrt

from prfaas.sim.clock import PRIORITY_WORK, Clock

_MSS_BYTES = 1448
_ROUNDING_S = 1e-8
"""A backlog that the line clears in less is rounding (and less than time can be told apart by)."""


class Flow:
    """One transfer of ``total_bytes``. Of these ``sendable`` are there at the start; until its
    prefill ends ``produce_rate`` bytes per second come to them, then at once what is left."""

    __slots__ = ("key", "produce_rate", "producing", "rate", "sendable", "sent", "total_bytes")

    def __init__(
        self, key: tuple[str, int], cached: float, streamed: float, state: float, prefill_s: float
    ) -> None:
        self.key = key
        self.total_bytes = cached + streamed + state
        self.sendable = cached
        self.produce_rate = streamed / prefill_s
        self.producing = True
        self.sent = 0.0
        self.rate = 0.0


class Line:
    """``on_arrived(key)`` is called when a transfer has wholly arrived."""

    def __init__(
        self,
        clock: Clock,
        *,
        rate_bytes_per_s: float,
        rtt_s: float,
        loss: float,
        connections: int,
        on_arrived: Callable[[tuple[str, int]], None],
    ) -> None:
        self._clock = clock
        self._delay_s = rtt_s / 2
        self._loss = loss
        window = 1.22 * _MSS_BYTES / (rtt_s * sqrt(loss)) if loss and rtt_s else inf
        self._window_bytes_per_s = window * connections
        self._on_arrived = on_arrived
        self._flows: dict[tuple[str, int], Flow] = {}
        self._by_rate: list[Flow] = []
        """The same, by the rate at which they are produced; of equals who came first."""
        self._arriving: dict[tuple[str, int], Flow] = {}
        self._since = 0.0
        self._used = 0.0
        self._version = 0
        self._bins = array("d")
        self.received_bytes = self.dropped_bytes = 0.0
        self.set_rate(rate_bytes_per_s)

    def set_rate(self, rate_bytes_per_s: float) -> None:
        """The line's rate from now on; 0 while it is cut (transfers keep what has arrived)."""
        self._advance()
        self.rate = min(rate_bytes_per_s * (1 - self._loss), self._window_bytes_per_s)
        self._rounding = max(1e-3, self.rate * _ROUNDING_S)
        self._plan()

    def open(self, flow: Flow) -> None:
        """A prefill has begun whose KV cache crosses here."""
        self._advance()
        self._flows[flow.key] = flow
        insort_right(self._by_rate, flow, key=_produce_rate)
        self._plan()

    def produced(self, key: tuple[str, int]) -> None:
        """Its prefill has ended: the recurrent state can go too."""
        flow = self._flows.get(key)
        if flow is not None:
            self._advance()
            flow.producing = False
            flow.sendable = flow.total_bytes
            self._plan()

    def cancel(self, key: tuple[str, int]) -> None:
        """Drop a transfer; what it has sent so far was for nothing."""
        flow = self._flows.get(key)
        if flow is not None:
            self._advance()
            self._drop(flow)
            self._plan()
        else:
            flow = self._arriving.pop(key, None)
        if flow is not None:
            self.dropped_bytes += flow.sent

    @property
    def utilisation(self) -> float:
        """Share of the rate in use now."""
        if self.rate:
            return self._used / self.rate
        return 1.0 if self._flows else 0.0

    def moving(self) -> list[tuple[str, int]]:
        """Keys of the transfers that are sending now."""
        return [flow.key for flow in self._flows.values() if flow.rate > 0]

    @property
    def backlog_bytes(self) -> float:
        """Sendable bytes that wait."""
        self._advance()
        return sum(flow.sendable - flow.sent for flow in self._flows.values())

    @property
    def sent_bytes(self) -> float:
        """Everything ever sent: received, dropped with its transfer, or on its way."""
        self._advance()
        crossing = sum(f.sent for f in (*self._flows.values(), *self._arriving.values()))
        return self.received_bytes + self.dropped_bytes + crossing

    def per_second(self) -> array[float]:
        """Bytes sent in each second of the run."""
        self._advance()
        return self._bins

    def _advance(self) -> None:
        now = self._clock.now
        elapsed = now - self._since
        if elapsed <= 0:
            return
        for flow in self._by_rate:
            flow.sent += flow.rate * elapsed
            if flow.producing:
                flow.sendable += flow.produce_rate * elapsed
        if self._used:
            self._count(self._since, now)
        self._since = now

    def _count(self, since: float, until: float) -> None:
        """Spread what was sent over the seconds it was sent in."""
        bins, first, last = self._bins, int(since), int(until)
        if last >= len(bins):
            bins.extend([0.0] * (last + 1 - len(bins)))
        if first == last:
            bins[first] += (until - since) * self._used
            return
        bins[first] += (first + 1 - since) * self._used
        for second in range(first + 1, last):
            bins[second] += self._used
        bins[last] += (until - last) * self._used

    def _plan(self) -> None:
        """Share the rate out anew, and find when that will next be due."""
        self._version += 1
        self._used = 0.0
        left, count = self.rate, len(self._flows)
        if count == 0:
            return
        hungry: list[Flow] = []
        modest: list[Flow] = []
        for flow in self._by_rate:
            if not flow.producing or flow.sendable - flow.sent > self._rounding:
                hungry.append(flow)
            else:
                modest.append(flow)
        for flow in modest:
            fair = left / count
            flow.rate = flow.produce_rate if flow.produce_rate < fair else fair
            left -= flow.rate
            count -= 1
        for flow in hungry:
            flow.rate = left / count
        self._used = self.rate - (0.0 if hungry else left)
        self._schedule(hungry)

    def _drop(self, flow: Flow) -> None:
        """It is under way no more."""
        del self._flows[flow.key]
        self._by_rate.remove(flow)

    def _schedule(self, hungry: list[Flow]) -> None:
        soonest = inf
        for flow in hungry:
            closing = flow.rate - flow.produce_rate if flow.producing else flow.rate
            if closing > 0:
                soonest = min(soonest, max(0.0, flow.sendable - flow.sent) / closing)
        if soonest < inf:
            self._clock.at(self._clock.now + soonest, self._due, self._version, PRIORITY_WORK)

    def _due(self, version: int) -> None:
        """Some transfer has caught up or drained."""
        if version != self._version:
            return
        self._advance()
        drained = []
        for flow in self._flows.values():
            if flow.sendable - flow.sent <= self._rounding:
                flow.sent = flow.sendable
                if not flow.producing:
                    drained.append(flow)
        for flow in drained:
            self._drop(flow)
            self._arriving[flow.key] = flow
            self._clock.at(self._clock.now + self._delay_s, self._arrived, flow.key, PRIORITY_WORK)
        self._plan()

    def _arrived(self, key: tuple[str, int]) -> None:
        flow = self._arriving.pop(key, None)
        if flow is not None:
            self.received_bytes += flow.total_bytes
            self._on_arrived(key)


def _produce_rate(flow: Flow) -> float:
    return flow.produce_rate
