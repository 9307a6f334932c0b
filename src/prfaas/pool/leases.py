"""Lends arena slots to engine connections; who finds none waits in line."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from prfaas.core.errors import EngineError
from prfaas.pool.books import Books
from prfaas.pool.effects import GrantSlots, ServeLeases
from prfaas.pool.events import LeasesCameDue, SlotsRequested, SlotsReturned

_MOST_WAITING = 64
"""Requests of one connection: an engine asks for no more before it was answered."""


class _Waiting(NamedTuple):
    connection: int
    wanted: int


class Leases:
    """First come, first served, and never more than half of the export share at once, so no
    engine can starve another.

    The link releases slots one by one, from its own threads. Were each granted by itself, an engine
    that waits would get, fill and ask for one slot at a time; so these are granted together, when
    the driver comes to it (`serve_soon`).
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        self._waiting: deque[_Waiting] = deque()
        self._still_since = 0.0
        self._due = False

    @property
    def waiting(self) -> int:
        """Requests that have not been granted anything yet."""
        return len(self._waiting)

    def requested(self, event: SlotsRequested) -> None:
        """Joins the line; `serve` grants. Raises EngineError for what is no number of slots, and
        from who stands there too often."""
        if event.count <= 0:
            raise EngineError(f"{event.count} slots were asked for")
        if sum(w.connection == event.connection for w in self._waiting) >= _MOST_WAITING:
            raise EngineError(f"slots were asked for {_MOST_WAITING} times before any came free")
        if not self._waiting:
            self._still_since = self._books.now
        most = max(1, self._books.slots.export_slots // 2)
        self._waiting.append(_Waiting(event.connection, min(event.count, most)))

    def returned(self, event: SlotsReturned) -> None:
        """Raises EngineError for a slot that is not leased to the engine."""
        self._books.slots.check_leased(event.connection, event.slots)
        self._books.slots.take_back(event.connection, event.slots)

    def serve_soon(self) -> None:
        """Slots came free: grant nothing before `came_due`."""
        if self._waiting and not self._due:
            self._due = True
            self._books.effects.append(ServeLeases())

    def came_due(self, event: LeasesCameDue) -> None:
        """Slots are granted again."""
        self._due = False

    def serve(self) -> None:
        """Give free slots to those who wait."""
        while self._waiting and not self._due:
            head = self._waiting[0]
            slots = self._books.slots.lease(head.connection, head.wanted)
            if not slots:
                return
            self._still_since = self._books.now
            self._waiting.popleft()
            self._books.effects.append(GrantSlots(head.connection, slots))

    def waits_no_more(self, connection: int) -> None:
        """What is leased to it stays so; it gets nothing more."""
        if any(waiting.connection == connection for waiting in self._waiting):
            self._waiting = deque(w for w in self._waiting if w.connection != connection)

    def connection_closed(self, connection: int) -> None:
        """Every lease ends with its connection."""
        self.waits_no_more(connection)
        slots = self._books.slots
        slots.take_back(connection, slots.leased_to(connection))

    def stalled_s(self) -> float:
        """How long someone has waited without anyone getting a slot."""
        return self._books.now - self._still_since if self._waiting else 0.0

    def restart_stall_clock(self) -> None:
        """Something was done about it: give it time to work."""
        self._still_since = self._books.now
