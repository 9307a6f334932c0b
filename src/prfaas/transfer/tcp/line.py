"""What is known of the line to one peer, and what follows: pacing, chunk size, connections."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prfaas.transfer.api import LinkState
from prfaas.transfer.protocol.fanout import Fanout, first_guess
from prfaas.transfer.protocol.monitor import ConnectionSample, LineMonitor, LineSample
from prfaas.transfer.protocol.outbound import OutboundConnection
from prfaas.transfer.protocol.pacing import CapacityEstimate, connection_rates
from prfaas.transfer.protocol.sender import SenderCounters
from prfaas.transfer.tcp import tcp_info
from prfaas.transfer.tcp.channel import Channel, limit_unsent, pace
from prfaas.transfer.tcp.config import PeerConfig, TcpLinkConfig

_CHUNK_S = 0.01
"""A chunk should take one connection about so long: it is the grain of priorities and cancels."""
_UNSENT_S, _LEAST_UNSENT, _MOST_UNSENT = 0.01, 16 * 1024, 512 * 1024
_FIRST_CHUNK = 256 * 1024
_SHARES_S = 0.5

Live = Mapping[int, tuple[Channel, OutboundConnection]]


class Line:
    """Call `observe` every 100 ms from one thread; the rest may be read from any."""

    def __init__(self, name: str, peer: PeerConfig, config: TcpLinkConfig) -> None:
        self.name, self.peer = name, peer
        self.monitor = LineMonitor()
        self.samples: dict[int, ConnectionSample] = {}
        self.rate_bytes_per_s = peer.rate_bytes_per_s
        self.chunk_bytes = min(_FIRST_CHUNK, config.max_chunk_bytes)
        self._config = config
        self._capacity = CapacityEstimate()
        self._fanout: Fanout | None = None
        self._retransmits_of_the_gone = 0
        self._delivered: dict[int, float] = {}
        self._paced: dict[int, float | None] = {}

    @property
    def connections(self) -> int:
        """How many there should be."""
        if self.peer.connections is not None:
            return self.peer.connections
        return self._fanout.count if self._fanout is not None else 1

    def observe(self, live: Live, counters: SenderCounters, queued_bytes: int, now: float) -> None:
        """Ask the kernel about every connection and adapt."""
        fresh = {
            number: found
            for number, (channel, _) in live.items()
            if (found := tcp_info.sample(channel.socket)) is not None
        }
        self._note_delivery(fresh)
        gone = self.samples.keys() - fresh.keys()
        self._retransmits_of_the_gone += sum(self.samples[n].retransmits for n in gone)
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
        if view.backlogged:
            self._capacity.observe(view.goodput_bytes_per_s, now=now)
        self.rate_bytes_per_s = self._rate(now)
        self._adapt(live, now)

    def introduce(self, channel: Channel) -> None:
        """Pace a new connection; the first one also tells how far the peer is."""
        found = tcp_info.sample(channel.socket)
        if self._fanout is None and found is not None:
            self._fanout = Fanout(first_guess(found.rtt_s, self.peer.rate_bytes_per_s))
        if self.rate_bytes_per_s is not None:
            pace(channel.socket, self.rate_bytes_per_s / max(self.connections, 1))
        limit_unsent(channel.socket, self._unsent_bytes(self.connections))

    def state(self, connections: int, counters: SenderCounters, queued_bytes: int) -> LinkState:
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

    def _note_delivery(self, fresh: Mapping[int, ConnectionSample]) -> None:
        for number, sample in fresh.items():
            before = self.samples.get(number)
            sent = (sample.sent_bytes - before.sent_bytes) * 10.0 if before is not None else 0.0
            old = self._delivered.get(number, sent)
            self._delivered[number] = old + (sent - old) * 0.1 / _SHARES_S
        self._delivered = {n: d for n, d in self._delivered.items() if n in fresh}

    def _rate(self, now: float) -> float | None:
        limits = [self.peer.rate_bytes_per_s]
        if self.peer.leave_to_others:
            limits.append(self._capacity.limit(self.peer.leave_to_others, now=now))
        return min((limit for limit in limits if limit is not None), default=None)

    def _adapt(self, live: Live, now: float) -> None:
        view, rate = self.monitor.view, self.rate_bytes_per_s
        count = max(len(live), 1)
        expected = rate or view.goodput_bytes_per_s
        if expected:
            chunk = int(expected / count * _CHUNK_S)
            least, most = self._config.min_chunk_bytes, self._config.max_chunk_bytes
            self.chunk_bytes = min(max(chunk, least), most)
        for _, machine in live.values():
            machine.chunk_bytes = self.chunk_bytes
        shares: dict[int, float | None] = (
            dict.fromkeys(live, None)
            if rate is None
            else {**connection_rates(rate, {n: self._delivered.get(n, 0.0) for n in live})}
        )
        for number, share in shares.items():
            if _differs(share, self._paced.get(number, -1.0)):
                pace(live[number][0].socket, share)
                limit_unsent(live[number][0].socket, self._unsent_bytes(count))
                self._paced[number] = share
        self._paced = {n: share for n, share in self._paced.items() if n in live}
        if self._fanout is not None:
            limited = rate is not None or not view.backlogged
            self._fanout.observe(view.goodput_bytes_per_s, limited=limited, now=now)

    def _unsent_bytes(self, count: int) -> int:
        if self.rate_bytes_per_s is None:
            return _MOST_UNSENT
        share = self.rate_bytes_per_s / max(count, 1)
        return int(min(max(share * _UNSENT_S, _LEAST_UNSENT), _MOST_UNSENT))


def _differs(share: float | None, before: float | None) -> bool:
    if share is None or before is None:
        return share is not before
    return abs(share - before) > 0.02 * before
