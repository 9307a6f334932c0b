"""One way to serve a request, and which of many is the cheapest: see `alike_ways`."""

from __future__ import annotations

from math import inf
from typing import Any

from prfaas.policies.alike_queues import Front
from prfaas.policies.line_facts import LineFacts

DIRECT, ALONE, LOCAL, REMOTE = range(4)
"""By a decode engine with time to spare, by the one that is to decode, by a prefill engine of its
cluster, over a line; in the order of ways."""


class Way:
    """``ttft_s``, ``wait_s``, ``behind_s``, ``idle_s``: see `Candidate`; home, kind, source and
    place are the order of ways."""

    __slots__ = ("behind_s", "home", "idle_s", "kind", "place", "source", "ttft_s", "wait_s")

    def __init__(
        self,
        ttft_s: float,
        wait_s: float,
        behind_s: float,
        home: int,
        kind: int,
        source: int,
        place: int,
        idle_s: float,
    ) -> None:
        self.ttft_s, self.wait_s, self.behind_s, self.idle_s = ttft_s, wait_s, behind_s, idle_s
        self.home, self.kind, self.source, self.place = home, kind, source, place

    def goes_before(self, other: Way) -> bool:
        """Of two that are equal in time or in cost."""
        if self.wait_s != other.wait_s:
            return self.wait_s < other.wait_s
        if self.behind_s != other.behind_s:
            return self.behind_s < other.behind_s
        if self.home != other.home:
            return self.home < other.home
        if self.kind != other.kind:
            return self.kind < other.kind
        if self.source != other.source:
            return self.source < other.source
        return self.place < other.place


def own_way(own_s: float, front: Front, number: int, slot_s: float) -> Way:
    """Over a prefill engine of the cluster that decodes."""
    wait_s, place, prefills = front
    return Way(
        max(own_s + wait_s, slot_s), wait_s, own_s * prefills, number, LOCAL, 0, place, own_s
    )


class Crossing:
    """What a hand-off of ``size`` bytes takes of a line. ``done_s``: when the soonest engine at its
    end would be done: where the line is later than that, its transfers are delayed too."""

    def __init__(
        self, link: LineFacts[Any], size: float, tail_s: float, done_s: float, now: float
    ) -> None:
        rate = link.rate.at(now)
        self.sent_s = size / rate
        self.carried_s = link.outstanding_bytes / rate + self.sent_s
        self.tail_s = tail_s
        self.behind_s = self.sent_s * len(link.records) if self.carried_s > done_s else 0.0

    def ttft_s(self, done_s: float, slot_s: float) -> float:
        """By an engine that is done then."""
        return max(max(done_s, self.carried_s) + self.tail_s, slot_s)

    def way(self, own_s: float, front: Front, number: int, source: int, slot_s: float) -> Way:
        """By this engine."""
        wait_s, place, prefills = front
        ttft_s = self.ttft_s(own_s + wait_s, slot_s)
        behind_s = own_s * prefills + self.behind_s
        idle_s = max(own_s, self.sent_s) + self.tail_s
        return Way(ttft_s, wait_s, behind_s, number, REMOTE, source, place, idle_s)


class Cheapest:
    """The cheapest way so far (see `Ways.best`). ``way`` None: none is in time."""

    def __init__(self, soonest: Way, limit_s: float, weight: float) -> None:
        self.way: Way | None = None
        self._soonest, self._limit_s, self._weight = soonest, limit_s, weight
        self._far, self._cost_s = True, inf
        self._first_of_equals = False

    def may_be_beaten(self, ttft_s: float, far: bool) -> bool:
        """Whether a way with so late a first token can be better."""
        if ttft_s > self._limit_s:
            return False
        if far != self._far:
            return self._far
        return ttft_s < self._cost_s or (ttft_s == self._cost_s and not self._first_of_equals)

    def take(self, way: Way, far: bool) -> None:
        """One more."""
        cost_s = way.ttft_s + self._weight * way.behind_s
        if way.ttft_s > self._limit_s or (far and not self._far):
            return
        if self.way is not None and far == self._far:
            if cost_s > self._cost_s:
                return
            if cost_s == self._cost_s and not way.goes_before(self.way):
                return
        self.way, self._far, self._cost_s = way, far, cost_s
        # What costs as much as the soonest, which waits for and delays nobody, was compared before.
        self._first_of_equals = way is self._soonest and way.wait_s == way.behind_s == 0
