"""A line that has become slow: requests whose KV cache would arrive late are prefilled elsewhere.

Theory of operation. Requests on a line share it, so the bytes of each have arrived when those of
the smaller ones have, and as much of the larger ones (processor sharing). Where that is much later
than a prefill elsewhere would be done, the request goes there. Those that lack most are looked at
first: they gain most, and what they leave makes the others faster.

A line must have been slow for ``link_grace`` without a break. What has been computed and sent would
be lost, and a burst of others' bytes, a moment without a connection, or a processor that was busy
elsewhere look the same as a line that will stay slow. New prompts need not wait for that: they are
decided by what the line carries now.
"""

from __future__ import annotations

from math import inf

from prfaas.policies.first_token import soonest_elsewhere
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import State, Trigger
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.state import LinkState, Record
from prfaas.scheduler.timers import TimerKind

_EVERY_S = 0.5
"""A line is looked at so often: well below the time in which a change must show."""
_SLOW = 0.7
"""Of what it was configured for. Where a line is full and no slower than that, its queue was seen
when each prompt was sent there, and to compute it again only adds work."""
_WORSE = 1.5
_LATER_S = 1.0
"""How much later the hand-off must be than a prefill elsewhere: so many times, and so many seconds
more. What has been computed and sent is lost, and neither time is exact."""


class Congestion:
    """Watches how slow each line is."""

    def __init__(self, requests: Requests, fleet: FleetState, grace_s: float) -> None:
        self._requests = requests
        self._fleet = fleet
        self._grace_s = grace_s
        self._looked_at: dict[LinkState, float] = {}

    def heard(self, link: LinkState) -> None:
        """Something was told of ``link``: it may be slow, or slow no longer."""
        if not link.up or link.rate.told >= _SLOW * link.configured_bytes_per_s:
            link.slow_since = inf
            return
        now = self._requests.now
        if link.slow_since == inf:
            link.slow_since = now
            key = link.source, link.target
            self._requests.timers.add(now + self._grace_s, TimerKind.SLOW_LINE, key)
        if now >= self._looked_at.get(link, -inf) + _EVERY_S:
            self._look(link)

    def timer(self, key: tuple[str, str]) -> None:
        """The line between these clusters may have been slow for long enough."""
        link = self._fleet.links.get(key)
        if link is not None:
            self._look(link)

    def _look(self, link: LinkState) -> None:
        """Move what would arrive much later than elsewhere."""
        now = self._requests.now
        if not link.records or now < link.slow_since + self._grace_s:
            return
        self._looked_at[link] = now
        # What was measured while bytes waited; what is believed may lag behind it.
        rate = link.rate.told
        missing = sorted(
            ((_missing(record), record) for record in link.records.values()),
            key=lambda pair: pair[0],
        )
        smaller = sum(size for size, _ in missing)
        larger = 0
        for size, record in reversed(missing):
            smaller -= size
            arrives_s = (smaller + size * (larger + 1)) / rate + link.rtt_s / 2
            if not self._moved(record, link, arrives_s):
                larger += 1

    def _moved(self, record: Record, link: LinkState, arrives_s: float) -> bool:
        if arrives_s <= _LATER_S or record.state not in _ON_THE_LINE or record.decode is None:
            return False
        now = self._requests.now
        elsewhere_s = soonest_elsewhere(record, self._fleet, record.decode, link, now)
        if arrives_s <= _WORSE * elsewhere_s + _LATER_S:
            return False
        why = (
            f"the line from {link.source} would take {arrives_s:.1f} s, "
            f"a prefill elsewhere {elsewhere_s:.1f} s"
        )
        self._requests.trigger(record, Trigger.LINE_SLOW, why)
        return record.link is not link


_ON_THE_LINE = frozenset({State.WAITING, State.PREFILLING, State.SENDING})


def _missing(record: Record) -> float:
    return record.link_bytes * (1.0 - (record.share_arrived or 0.0))
