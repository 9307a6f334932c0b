"""Lines and machines that are cut off, and what becomes of the requests that cross there.

A cut of less than ``link_grace`` is none: the link sends the rest when it is back. After that every
request whose KV cache is to cross takes another route. Of a line that is slow for as long, see
`congestion`.
"""

from __future__ import annotations

from prfaas.core.errors import CallerError
from prfaas.scheduler.congestion import Congestion
from prfaas.scheduler.events import LinkStateChanged, MachinesCut, MachinesJoined
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.lifecycle import Trigger
from prfaas.scheduler.requests import Requests
from prfaas.scheduler.state import Record
from prfaas.scheduler.timers import TimerKind


class Connectivity:
    """Watches which lines and machines are cut off."""

    def __init__(self, requests: Requests, fleet: FleetState, link_grace_s: float) -> None:
        self._requests, self._fleet, self._link_grace_s = requests, fleet, link_grace_s
        self._congestion = Congestion(requests, fleet, link_grace_s)

    def link_changed(self, event: LinkStateChanged) -> None:
        """Raises CallerError for a line that the topology does not have."""
        link = self._fleet.link(event.source, event.target)
        if link is None:
            raise CallerError(f"no link from {event.source!r} to {event.target!r}")
        # A line that is up carries something: a measured 0 says that nothing was sent.
        now = self._requests.now
        link.rate.take(event.rate_bytes_per_s or link.configured_bytes_per_s, now)
        link.utilisation, link.congestion = event.utilisation, event.congestion
        link.rtt_s = event.rtt_s
        if link.up and not event.up:
            link.down_since = now
            self._set_timer(TimerKind.LINK, link.source, link.target)
        link.up = event.up
        self._congestion.heard(link)

    def arrived(self, record: Record, share: float | None) -> None:
        """More of a hand-off's bytes, ``share`` of all where that is known."""
        record.share_arrived = share
        if record.link is not None:
            record.link.carried_at = self._requests.now

    def cut(self, event: MachinesCut) -> None:
        """Of a line that is up, two machines do not reach each other."""
        self._fleet.pairing.cut_off(event, self._requests.now)
        self._set_timer(TimerKind.CUT, event.source, event.target)

    def joined(self, event: MachinesJoined) -> None:
        """They do again."""
        self._fleet.pairing.joined(event)

    def timer(self, kind: TimerKind, key: tuple[str, str]) -> None:
        """A cut, or a line's slowness, may have lasted for too long."""
        if kind is TimerKind.SLOW_LINE:
            self._congestion.timer(key)
            return
        if kind is TimerKind.LINK:
            link = self._fleet.links.get(key)
            if link is None:  # It left the deployment, and its requests have moved.
                return
            since = None if link.up else link.down_since
            crossing = link.records
        else:
            since = self._fleet.pairing.cut.get(key)
            crossing = self._fleet.crossing(*key)
        if since is not None and self._requests.now >= since + self._link_grace_s:
            why = f"link {key[0]} to {key[1]} lost"
            self._requests.trigger_each(crossing, Trigger.LINK_LOST, why)

    def _set_timer(self, kind: TimerKind, source: str, target: str) -> None:
        at = self._requests.now + self._link_grace_s
        self._requests.timers.add(at, kind, (source, target))
