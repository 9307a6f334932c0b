"""Lends arena slots to engine connections; who finds none waits in line. Runs on the event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from prfaas.agent.state import AgentState
from prfaas.core.errors import PeerError

Grant = Callable[[tuple[int, ...]], None]


class _Waiting(NamedTuple):
    connection: int
    wanted: int
    grant: Grant


class Leases:
    """First come, first served, and never more than half of the export share at once, so no
    engine can starve another."""

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._waiting: deque[_Waiting] = deque()
        self._still_since = state.monotonic()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def lease(self, connection: int, count: int, grant: Grant) -> None:
        """``grant`` is called once, with 1 to ``count`` slots, unless the connection ends first."""
        if not self._waiting:
            self._still_since = self._state.monotonic()
        most = max(1, self._state.pool.export_slots // 2)
        self._waiting.append(_Waiting(connection, min(count, most), grant))
        self.serve()

    def return_slots(self, connection: int, slots: tuple[int, ...]) -> None:
        """Slots come back unused. Raises PeerError for one that is not leased to the engine."""
        with self._state.lock:
            try:
                self._state.pool.return_slots(connection, slots)
            except KeyError as error:
                raise PeerError(str(error)) from error
        self.serve()

    def serve(self) -> None:
        """Slots may have come free: give them to those who wait."""
        while self._waiting:
            head = self._waiting[0]
            with self._state.lock:
                slots = self._state.pool.lease(head.connection, head.wanted)
            if not slots:
                return
            self._still_since = self._state.monotonic()
            self._waiting.popleft()
            head.grant(tuple(slots))

    def waits_no_more(self, connection: int) -> None:
        """What is leased to it stays so; it gets nothing more."""
        self._waiting = deque(w for w in self._waiting if w.connection != connection)

    def connection_gone(self, connection: int) -> None:
        self.waits_no_more(connection)
        with self._state.lock:
            self._state.pool.owner_gone(connection)
        self.serve()

    def stalled_s(self, now: float) -> float:
        """How long someone has waited without anyone getting a slot."""
        return now - self._still_since if self._waiting else 0.0

    def restart_stall_clock(self) -> None:
        """Something was done about it: give it time to work."""
        self._still_since = self._state.monotonic()
