"""Bookkeeping of one connection's loads of cached prefixes. Not thread-safe; no I/O."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from prfaas.engine_socket.errors import TransferUnusable
from prfaas.engine_socket.messages import LoadedPart, LoadFailed, LoadReady

Parts = tuple[LoadedPart, ...]
"""That which ends last comes first."""


class LoadBook:
    """See the module.

    Args:
        arena_bytes: an answer that points beyond them is refused: copies go by address.
    """

    def __init__(self, arena_bytes: int) -> None:
        self._arena_bytes = arena_bytes
        self._open: dict[int, Future[Parts]] = {}
        self._numbers = 0

    def __len__(self) -> int:
        """Loads whose bytes may be read, now or once answered."""
        return len(self._open)

    def open(self) -> tuple[int, Future[Parts]]:
        """A new load's number, and what it will resolve to."""
        self._numbers += 1
        future = self._open[self._numbers] = Future()
        return self._numbers, future

    def close(self, number: int) -> bool:
        """Whether the agent is to be told."""
        return self._open.pop(number, None) is not None

    def answered(self, answer: LoadReady | LoadFailed) -> list[Callable[[], None]]:
        """Whom to tell what, without a lock held."""
        future = self._open.get(answer.load)
        if future is None or future.done():
            return []
        if isinstance(answer, LoadFailed):
            return [_told(future, TransferUnusable(answer.reason))]
        if not all(self._usable(part) for part in answer.parts):
            return [_told(future, TransferUnusable("the agent's extents are not in the arena"))]
        return [_told(future, answer.parts)]

    def connection_lost(self, error: Exception) -> list[Callable[[], None]]:
        """Loads without an answer fail; those that have their bytes keep them."""
        return [_told(future, error) for future in self._open.values() if not future.done()]

    def _usable(self, part: LoadedPart) -> bool:
        """Whether the extents lie in the arena and follow each other."""
        position = 0
        for extent in part.extents:
            if extent.flat_offset != position or extent.length <= 0:
                return False
            if extent.arena_offset < 0 or extent.arena_end > self._arena_bytes:
                return False
            position += extent.length
        return True


def _told(future: Future[Parts], outcome: Parts | Exception) -> Callable[[], None]:
    def tell() -> None:
        if not future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return tell
