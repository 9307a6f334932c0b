"""Which engine ranks are connected, and what KV layout each has. Pure bookkeeping."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import EngineError, LayoutMismatch
from prfaas.core.layout import KvLayout


class EngineEntry(msgspec.Struct, frozen=True):
    """One registered rank, as the admin API shows it."""

    engine: str
    pid: int
    layout: KvLayout
    fingerprint: str


class EngineRegistry:
    """All ranks here can exchange pages with each other, so ranks of a number are laid out alike.

    Args:
        engines: names the deployment gives this agent; others are refused.
    """

    def __init__(self, engines: frozenset[str]) -> None:
        self._known = engines
        self._entries: dict[int, EngineEntry] = {}

    def register(self, connection: int, engine: str, pid: int, layout: KvLayout) -> EngineEntry:
        """Raises EngineError for a name that is unknown or connected already, LayoutMismatch with
        the difference named."""
        if engine not in self._known:
            known = ", ".join(sorted(self._known))
            raise EngineError(f"engine {engine!r} is not in the deployment here; known: {known}")
        entry = EngineEntry(engine, pid, layout, layout.fingerprint())
        for other in self._entries.values():
            if other.layout.tp_rank != layout.tp_rank:
                continue
            if other.engine == engine and other.pid != pid:
                raise EngineError(f"engine {engine!r} is connected already, with pid {other.pid}")
            try:
                other.layout.check_pairs_with(layout)
            except LayoutMismatch as error:
                raise LayoutMismatch(f"{other.engine} and {engine}: {error}") from error
        self._entries[connection] = entry
        return entry

    def remove(self, connection: int) -> None:
        self._entries.pop(connection, None)

    def entries(self) -> list[EngineEntry]:
        return list(self._entries.values())

    def check_offer(self, rank: int, fingerprint: str) -> None:
        """Raises LayoutMismatch if no engine here could use a transfer of this layout."""
        ours = {e.fingerprint for e in self._entries.values() if e.layout.tp_rank == rank}
        if ours and fingerprint not in ours:
            raise LayoutMismatch(
                f"layout {fingerprint[:8]} of the sender is not that of rank {rank} here "
                f"({', '.join(sorted(f[:8] for f in ours))}); compare GET /engines of both agents"
            )
