"""Whose turn it is where requests wait: by class, fair between tenants, by the tenant's own wishes.

Theory of operation. Requests of one tenant and class are a *flow*. The best class goes first, and
within it the flow that has had least: start-time fair queueing (Goyal, Vin and Cheng, 1996). Each
flow has a virtual time, which a service moves on by its size over the tenant's weight; the flow
that is furthest behind is served, and one that comes back from having nothing to ask for begins
where the others are, so that nobody saves up. Of any two flows of a class that both wait all the
time, what they were given over their weights never differs by more than one service of each.

Within its flow a request goes by the priority that its client gave it, then in order of arrival. A
client's priority never moves it past other tenants, or all would send the highest.

A class is not starved by better ones: one service in `ONE_IN` goes to whoever has waited longest of
all other classes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

ONE_IN = 16
_FEW = 64
"""Up to so many flows that wait for nothing are remembered without a look."""


class Waiter(Protocol):
    """A request that waits for its turn."""

    request_id: str
    tenant: str
    tenant_class: int
    """A lower one goes first."""
    weight: float
    priority: int
    """Among its tenant's own; a lower one goes first."""


W = TypeVar("W", bound=Waiter)
_Flow = tuple[int, str]
"""Class and tenant."""


class _Place(NamedTuple):
    """Sorts as the flow is served; ``entry`` is unique."""

    priority: int
    entry: int
    request_id: str
    size: float


class Turns(Generic[W]):
    """One queue. ``records``: all that wait, by id, in order of entry."""

    def __init__(self) -> None:
        self.records: dict[str, W] = {}
        self._places: dict[str, _Place] = {}
        self._flows: dict[_Flow, list[_Place]] = {}
        """Of those with anything in it."""
        self._virtual: dict[_Flow, float] = {}
        """Where each flow is; also of those that were served and have nothing more for now."""
        self._now: dict[int, float] = {}
        """Class -> where the flow was that was served last."""
        self._entry = 0
        self._passed = 0
        """Services in a row past somebody of another class."""

    def __len__(self) -> int:
        return len(self.records)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self.records

    def add(self, record: W, size: float) -> None:
        """It waits from now on, for so much of whatever is given out here."""
        flow = record.tenant_class, record.tenant
        self._entry += 1
        place = _Place(record.priority, self._entry, record.request_id, size)
        self.records[record.request_id], self._places[record.request_id] = record, place
        queue = self._flows.get(flow)
        if queue is None:
            queue = self._flows[flow] = []
            now = self._now.get(flow[0], 0.0)
            self._virtual[flow] = max(now, self._virtual.get(flow, now))
        insort(queue, place)

    def drop(self, request_id: str) -> bool:
        """It waits no more, and was not served; False if it did not wait."""
        record = self.records.pop(request_id, None)
        if record is None:
            return False
        flow = record.tenant_class, record.tenant
        place = self._places.pop(request_id)
        queue = self._flows[flow]
        del queue[bisect_left(queue, place)]
        if not queue:
            del self._flows[flow]
            self._forget()
        return True

    def serve(self, record: W) -> None:
        """It is given what it waits for."""
        flow = record.tenant_class, record.tenant
        others = any(other[0] != flow[0] for other in self._flows)
        best = flow[0] == min(self._flows)[0]
        self._passed = self._passed + 1 if others and best else 0
        place = self._places[record.request_id]
        began = self._virtual[flow]
        self._now[flow[0]] = max(began, self._now.get(flow[0], 0.0))
        self._virtual[flow] = began + place.size / record.weight
        self.drop(record.request_id)

    def first(self) -> W | None:
        """Whose turn it is."""
        if not self.records:
            return None
        if len(self._flows) == 1:
            return self.records[next(iter(self._flows.values()))[0].request_id]
        return next(self.in_turn())

    def in_turn(self) -> Iterator[W]:
        """All, from the one whose turn it is: who comes next where that one cannot use what there
        is. Only until something is changed."""
        records = self.records
        oldest = self._longest_passed()
        if oldest is not None:
            yield records[oldest]
        for flow in sorted(self._flows, key=lambda flow: (flow[0], self._virtual[flow], flow[1])):
            for place in self._flows[flow]:
                if place.request_id != oldest:
                    yield records[place.request_id]

    def _longest_passed(self) -> str | None:
        """Whoever has waited longest of all classes but the best, if it is their turn."""
        if self._passed < ONE_IN - 1:
            return None
        best = min(self._flows)[0] if self._flows else 0
        places = [p for flow, queue in self._flows.items() if flow[0] != best for p in queue]
        return min(places, key=lambda place: place.entry).request_id if places else None

    def _forget(self) -> None:
        """Flows that have nothing more to ask for and are not ahead of the others."""
        if not self._flows:
            self._virtual.clear()
            self._now.clear()
        elif len(self._virtual) > 2 * len(self._flows) + _FEW:
            for flow in self._virtual.keys() - self._flows.keys():
                if self._virtual[flow] <= self._now.get(flow[0], 0.0):
                    del self._virtual[flow]
