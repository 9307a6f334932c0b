"""Which engine ranks are connected, and what KV layout each has."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import EngineError, LayoutMismatch
from prfaas.core.layout import KvLayout
from prfaas.pool.events import EngineConnected


class EngineEntry(msgspec.Struct, frozen=True):
    """One registered rank, as the admin API shows it."""

    engine: str
    pid: int
    layout: KvLayout
    fingerprint: str

    @property
    def rank(self) -> int:
        """Its tensor-parallel rank."""
        return self.layout.tp_rank


class Engines:
    """Not all of them need fit each other: while a machine is upgraded it has engines of two
    builds. Which of them pair is compared where hand-offs are decided, and again for each transfer.

    Args:
        names: engines the deployment gives this agent; others are refused.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._known = names
        self._entries: dict[int, EngineEntry] = {}

    def connected(self, event: EngineConnected) -> None:
        """Raises EngineError for a name that is unknown or connected already."""
        if event.engine not in self._known:
            known = ", ".join(sorted(self._known))
            raise EngineError(
                f"engine {event.engine!r} is not in the deployment here; known: {known}"
            )
        layout = event.layout
        for other in self._entries.values():
            same = other.engine == event.engine and other.rank == layout.tp_rank
            if same and other.pid != event.pid:
                raise EngineError(
                    f"engine {event.engine!r} is connected already, with pid {other.pid}"
                )
        self._entries[event.connection] = EngineEntry(
            event.engine, event.pid, layout, layout.fingerprint()
        )

    def closed(self, connection: int) -> None:
        """Unknown connections are ignored."""
        self._entries.pop(connection, None)

    def of(self, connection: int) -> EngineEntry:
        """Raises EngineError for a connection that has not registered."""
        try:
            return self._entries[connection]
        except KeyError:
            raise EngineError(f"connection {connection} has not registered") from None

    def entries(self) -> tuple[EngineEntry, ...]:
        """Every rank, in the order they came."""
        return tuple(self._entries.values())

    def check_offer(self, rank: int, fingerprint: str) -> None:
        """Raises LayoutMismatch if no engine here could use a transfer of this layout."""
        ours = {e.fingerprint for e in self._entries.values() if e.rank == rank}
        if ours and fingerprint not in ours:
            raise LayoutMismatch(
                f"layout {fingerprint[:8]} of the sender is not that of rank {rank} here "
                f"({', '.join(sorted(f[:8] for f in ours))}); compare GET /engines of both agents"
            )
