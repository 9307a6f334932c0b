"""Bookkeeping of one connection's open imports. Not thread-safe; no I/O.

Several requests of one engine rank may import the same part of a transfer: they share one
OpenImport. Every OpenImport is answered exactly once and in order per part, so an answer is matched
first in, first out; one whose import was closed meanwhile is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from prfaas.core.extents import Extent
from prfaas.engine_socket.errors import TransferUnusable
from prfaas.engine_socket.messages import CloseImport, ImportFailed, ImportReady, OpenImport

Extents = tuple[Extent, ...]
"""In flat order; together they cover the part exactly once."""
_Part = tuple[str, int]
"""Transfer id, and the sender's rank."""


class _Shared:
    """One OpenImport and those who wait for it or read from it."""

    def __init__(self, request: OpenImport) -> None:
        self.request = request
        self.part = (request.transfer_id, request.part)
        self.users: set[Ticket] = set()
        self.extents: Extents | None = None


class Ticket:
    """One caller's share in an import. ``future`` resolves to its `Extents` or raises
    `TransferUnusable` or `AgentUnavailable`. It can be cancelled while unresolved."""

    def __init__(self, shared: _Shared) -> None:
        self.future: Future[Extents] = Future()
        self.shared = shared

    @property
    def extents(self) -> Extents | None:
        """Where the bytes lie, once that is known."""
        return self.shared.extents

    def resolve(self, outcome: Extents | Exception) -> None:
        """Runs the future's callbacks: to be called without a lock held."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


Resolution = Callable[[], None]


class ImportBook:
    """See the module.

    Args:
        arena_bytes: an answer that points beyond them is refused: copies go by address.
    """

    def __init__(self, arena_bytes: int) -> None:
        self._arena_bytes = arena_bytes
        self._open: dict[_Part, _Shared] = {}
        self._unanswered: dict[_Part, deque[_Shared]] = {}

    def __len__(self) -> int:
        """OpenImports whose bytes may be read, now or once answered."""
        return len(self._open)

    def open(self, request: OpenImport) -> tuple[Ticket, bool]:
        """A new caller's ticket, and whether ``request`` must be sent.

        Raises ValueError if the part is open with other bounds.
        """
        part = (request.transfer_id, request.part)
        shared = self._open.get(part)
        is_new = shared is None
        if shared is None:
            shared = self._open[part] = _Shared(request)
            self._unanswered.setdefault(part, deque()).append(shared)
        elif shared.request != request:
            raise ValueError(f"import {request} differs from the open {shared.request}")
        ticket = Ticket(shared)
        shared.users.add(ticket)
        return ticket, is_new

    def close(self, ticket: Ticket) -> CloseImport | None:
        """Idempotent. The message to send if nobody else uses the part."""
        shared = ticket.shared
        shared.users.discard(ticket)
        if shared.users or self._open.get(shared.part) is not shared:
            return None
        del self._open[shared.part]
        return CloseImport(*shared.part)

    def answered(self, answer: ImportReady | ImportFailed) -> list[Resolution]:
        """Who is to be told what."""
        part = (answer.transfer_id, answer.part)
        waiting = self._unanswered.get(part)
        if not waiting:
            return []
        shared = waiting.popleft()
        if not waiting:
            del self._unanswered[part]
        if self._open.get(part) is not shared:
            return []
        if isinstance(answer, ImportFailed):
            return self._fail(shared, TransferUnusable(answer.reason))
        if not self._usable(answer.extents, shared.request.total_bytes):
            # Left open: its users close it, which tells the agent.
            error = TransferUnusable(f"agent's extents are not those of {answer.transfer_id}")
            return [_resolution(user, error) for user in shared.users]
        shared.extents = answer.extents
        return [_resolution(user, answer.extents) for user in shared.users]

    def connection_lost(self, error: Exception) -> list[Resolution]:
        """Imports without an answer fail; those that have their bytes keep them."""
        waiting = [shared for shared in self._open.values() if shared.extents is None]
        self._unanswered.clear()
        return [told for shared in waiting for told in self._fail(shared, error)]

    def _usable(self, extents: Extents, total_bytes: int) -> bool:
        """Whether they lie in the arena and cover the transfer exactly once, in order."""
        position = 0
        for extent in extents:
            if extent.flat_offset != position or extent.length <= 0:
                return False
            if extent.arena_offset < 0 or extent.arena_end > self._arena_bytes:
                return False
            position += extent.length
        return position == total_bytes

    def _fail(self, shared: _Shared, error: Exception) -> list[Resolution]:
        del self._open[shared.part]
        return [_resolution(user, error) for user in shared.users]


def _resolution(user: Ticket, outcome: Extents | Exception) -> Resolution:
    return lambda: user.resolve(outcome)
