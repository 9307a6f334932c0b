"""What is known of the line to one peer, and what follows: pacing, chunk size, connections."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping

from prfaas.link.api import LinkState
from prfaas.link.protocol.congestion_choice import FINDS_THE_RATE, CongestionChoice
from prfaas.link.protocol.connection_tuner import ConnectionTuner, first_guess
from prfaas.link.protocol.line_monitor import ConnectionSample, LineMonitor, LineSample
from prfaas.link.protocol.pacing import CapacityEstimate, connection_rate
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_records import SendingCounters
from prfaas.link.tcp import tcp_info
from prfaas.link.tcp.channel import Carrier, is_own
from prfaas.link.tcp.config import PeerConfig, TcpLinkConfig
from prfaas.link.tcp.line_budget import LineBudget
from prfaas.link.tcp.socket_options import control, limit_unsent, pace

log = logging.getLogger(__name__)

_CHUNK_S = 0.01
"""A chunk should take one connection about so long: it is the grain of priorities and cancels."""
_UNSENT_S, _UNSENT_UNLIMITED_S = 0.01, 0.025
"""Backlog in the kernel: what is there can be overtaken by nothing, but keeps the line busy while
our threads wait for a core; a line without a limit needs more of it."""
_LEAST_UNSENT, _FIRST_UNSENT, _MOST_UNSENT = 16 * 1024, 512 * 1024, 4 * 1024 * 1024
"""Bounds of that backlog, and what it is at least on a line without a limit. The largest is a
socket's buffer with the kernel's default limits."""
_FIRST_CHUNK = 256 * 1024
"""Until the rate is known."""
_MOST_ORDER = 4 * 1024 * 1024
"""A link worker is told to write at most so much at once, and no more than takes it about as long
as a chunk should: each order is a round trip between two processes."""
_AT_LIMIT = 0.95
"""A line this near to its rate limit needs no more connections."""

Live = Mapping[int, tuple[Carrier, SendingConnection]]


class LineControl:
    """Call `observe` every 100 ms from one thread; the rest may be read from any."""

    def __init__(
        self,
        name: str,
        peer: PeerConfig,
        config: TcpLinkConfig,
        budget: LineBudget | None = None,
    ) -> None:
        self.name, self.peer = name, peer
        self.monitor = LineMonitor()
        self.samples: dict[int, ConnectionSample] = {}
        self.rate_bytes_per_s = self.own_rate_bytes_per_s = peer.rate_bytes_per_s
        self.most_chunk_bytes = config.max_chunk_bytes
        self.chunk_bytes = _FIRST_CHUNK
        self._config, self._budget = config, budget
        self._capacity = CapacityEstimate()
        self._tuner: ConnectionTuner | None = None
        self._retransmits_of_the_gone = 0
        self._choice = CongestionChoice()
        self._control = FINDS_THE_RATE
        self.least_connections = 1
        """Fewer would leave link workers idle."""

    @property
    def connections(self) -> int:
        """How many there should be."""
        if self.peer.connections is not None:
            return self.peer.connections
        return max(self.least_connections, self._tuner.count) if self._tuner is not None else 1

    def observe(self, live: Live, counters: SendingCounters, queued_bytes: int, now: float) -> None:
        """Ask the kernel about every connection and adapt."""
        fresh = {
            number: found
            for number, (channel, _) in live.items()
            if (found := tcp_info.sample(channel.socket)) is not None
        }
        gone = self.samples.keys() - fresh.keys()
        self._retransmits_of_the_gone += sum(self.samples[n].retransmits for n in gone)
        known = fresh.keys() & self.samples.keys()
        again = sum(fresh[n].retransmits - self.samples[n].retransmits for n in known)
        self._choice.observe(again, now=now)
        self.samples = fresh
        view = self.monitor.observe(
            LineSample(
                counters.bytes_acknowledged,
                queued_bytes,
                self.rate_bytes_per_s,
                tuple(fresh.values()),
            ),
            now=now,
        )
        if view.busy and fresh:  # without a connection the line is not asked for anything
            self._capacity.observe(view.busy_goodput_bytes_per_s)
        self.own_rate_bytes_per_s = self.rate_bytes_per_s = self._own_rate(now)
        if self._budget is not None:
            part = self._budget.part(self.name, now=now)
            self.rate_bytes_per_s = min(part, self.own_rate_bytes_per_s or part)
        self._adapt(live, now)

    def introduce(self, channel: Carrier) -> None:
        """Pace a new connection; the first one also tells how far the peer is."""
        found = tcp_info.sample(channel.socket)
        if self._tuner is None and found is not None:
            guess = first_guess(found.rtt_s, self.peer.rate_bytes_per_s)
            self._tuner = ConnectionTuner(guess, most=self.peer.most_connections)
        self._pace(channel, self.connections, time.monotonic())

    def state(self, connections: int, counters: SendingCounters, queued_bytes: int) -> LinkState:
        """The event for the scheduler."""
        view = self.monitor.view
        retransmits = sum(s.retransmits for s in self.samples.values())
        return LinkState(
            peer=self.name,
            at_s=time.time(),
            connections=connections,
            goodput_bytes_per_s=view.goodput_bytes_per_s,
            limit_bytes_per_s=self.rate_bytes_per_s,
            utilisation=view.utilisation,
            rtt_s=view.rtt_s,
            min_rtt_s=view.min_rtt_s,
            retransmits=retransmits + self._retransmits_of_the_gone,
            queued_bytes=queued_bytes,
            congestion=view.congestion,
            acknowledged_bytes_total=counters.bytes_acknowledged,
            resent_bytes_total=counters.bytes_resent,
        )

    def _own_rate(self, now: float) -> float | None:
        limits = [self.peer.rate_bytes_per_s]
        if self.peer.leave_to_others:
            limits.append(self._capacity.limit(self.peer.leave_to_others, now=now))
        return min((limit for limit in limits if limit is not None), default=None)

    def _adapt(self, live: Live, now: float) -> None:
        view, rate = self.monitor.view, self.rate_bytes_per_s
        count = max(len(live), 1)
        expected = rate or view.goodput_bytes_per_s
        chunk = int(expected / count * _CHUNK_S)
        if expected:
            self.chunk_bytes = max(chunk, self._config.min_chunk_bytes)
        order = min(chunk, _MOST_ORDER)
        self.chunk_bytes = min(self.chunk_bytes, self.most_chunk_bytes)
        for channel, machine in live.values():
            machine.chunk_bytes = self.chunk_bytes
            machine.batch_bytes = 0 if is_own(channel) else order
            self._pace(channel, count, now)
        if self._tuner is not None:
            goodput = view.goodput_bytes_per_s
            at_limit = rate is not None and goodput >= _AT_LIMIT * rate
            self._tuner.observe(goodput, limited=at_limit or not view.backlogged, now=now)

    def _choose_control(self, now: float) -> None:
        given = self.peer.rate_bytes_per_s is not None or self._budget is not None
        chosen = self._choice.name(rate_is_given=given, now=now)
        if chosen != self._control and given:
            log.info("link to %s: %s carries it from now on", self.name, chosen)
        self._control = chosen

    def _pace(self, channel: Carrier, count: int, now: float) -> None:
        if self._config.congestion_control is None:
            self._choose_control(now)
            control(channel.socket, self._control)
        rate = self.own_rate_bytes_per_s
        if self._budget is not None:
            rate = min(self._budget.burst_rate(self.name, now=now), rate or math.inf)
        if rate is None:
            share = self.monitor.view.goodput_bytes_per_s / max(count, 1)
            unsent = int(share * _UNSENT_UNLIMITED_S)
            pace(channel.socket, None)
            limit_unsent(channel.socket, min(max(unsent, _FIRST_UNSENT), _MOST_UNSENT))
            return
        share = connection_rate(rate, count)
        pace(channel.socket, share)
        limit_unsent(channel.socket, min(max(int(share * _UNSENT_S), _LEAST_UNSENT), _MOST_UNSENT))
