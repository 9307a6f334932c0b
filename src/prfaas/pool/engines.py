"""Which engine ranks are connected, and what KV layout each has."""

from __future__ import annotations

import msgspec

from prfaas.core.errors import EngineError, LayoutMismatch
from prfaas.core.layout import PAIRING_DIGITS, KvLayout
from prfaas.pool.events import EngineConnected

MOST_LAYOUT_BYTES = 2 * 1024 * 1024
"""Of all ranks of an engine here: a rank's has some tens of KiB. Gateways are told all of them."""


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
    An engine's own ranks hold their caches alike.

    Args:
        names: engines the deployment gives this agent; others are refused.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._known = names
        self._entries: dict[int, EngineEntry] = {}

    def named(self, names: frozenset[str]) -> None:
        """These may connect from now on."""
        self._known = names

    def connected(self, event: EngineConnected) -> None:
        """Raises EngineError for a name that is unknown or connected already."""
        if event.engine not in self._known:
            known = ", ".join(sorted(self._known))
            raise EngineError(
                f"engine {event.engine!r} is not in the deployment here; known: {known}"
            )
        layout = event.layout
        if not 0 <= layout.tp_rank < layout.tp_size:
            raise EngineError(f"rank {layout.tp_rank} of {layout.tp_size} ranks is none")
        own = [entry for entry in self._entries.values() if entry.engine == event.engine]
        for other in own:
            _check_beside(other, event)
        if sum(_size(known) for known in (layout, *(o.layout for o in own))) > MOST_LAYOUT_BYTES:
            raise EngineError(f"layouts of engine {event.engine!r} are larger than any model's")
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

    def check_offer(self, fingerprint: str) -> None:
        """Raises LayoutMismatch if no engine here could use a transfer of this layout."""
        theirs = fingerprint[:PAIRING_DIGITS]
        ours = {e.fingerprint[:PAIRING_DIGITS] for e in self._entries.values()}
        if ours and theirs not in ours:
            raise LayoutMismatch(
                f"layout {theirs[:8]} of the sender pairs with no engine's here "
                f"({', '.join(sorted(f[:8] for f in ours))}); compare GET /engines of both agents"
            )


def _size(layout: KvLayout) -> int:
    return len(msgspec.msgpack.encode(layout))


def _check_beside(other: EngineEntry, event: EngineConnected) -> None:
    """Raises where two ranks of one name cannot be one engine's."""
    ours, theirs = event.layout, other.layout
    if ours.tp_rank == theirs.tp_rank and other.pid != event.pid:
        raise EngineError(f"engine {event.engine!r} is connected already, with pid {other.pid}")
    if not ours.is_held_as(theirs):
        raise LayoutMismatch(
            f"rank {ours.tp_rank} of engine {event.engine!r} holds its KV cache otherwise than "
            f"rank {theirs.tp_rank}: one engine's ranks are alike"
        )
