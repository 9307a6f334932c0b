"""Engines that read received transfers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prfaas.core.errors import EngineError, InvariantError
from prfaas.core.extents import Extent
from prfaas.pool.books import Books
from prfaas.pool.effects import AnswerImport, FailImport
from prfaas.pool.engines import EngineEntry
from prfaas.pool.events import ImportClosed, ImportOpened
from prfaas.pool.lifecycle import ReceptionState
from prfaas.pool.reception import Reception
from prfaas.pool.receptions import Receptions

UNKNOWN_WAIT_S = 1.0
"""How long an import waits for a transfer nobody has announced. The gateway submits a request when
its transfer is complete, so this only covers a race."""


_MOST_WAITING = 2048
"""Imports of one transfer that wait for one connection: a rank reads 1,024 parts at most, and opens
each once until that is answered. Who waits for a transfer that is not known is answered soon."""


class _Waiting(NamedTuple):
    request: ImportOpened
    entry: EngineEntry
    unknown_until: float


class Imports:
    """Every import is answered once, in order per connection and part of a transfer."""

    def __init__(self, books: Books, receptions: Receptions) -> None:
        self._books, self._receptions = books, receptions
        self._waiting: dict[str, list[_Waiting]] = {}
        self._open: dict[tuple[int, str, int], list[Reception]] = {}
        """By connection and part. More than one where an engine reads an attempt that was dropped
        and its successor."""

    @property
    def open_count(self) -> int:
        """Of those that read."""
        return len(self._open)

    def reads(self, connection: int, transfer_id: str) -> bool:
        """Whether the rank has a part of the transfer open for reading."""
        return any(owner == connection and name == transfer_id for owner, name, _ in self._open)

    def opened(self, event: ImportOpened) -> None:
        """Answered when the transfer is all here, or will never be. Raises EngineError for one that
        is opened again and again."""
        entry = self._books.engines.of(event.connection)
        others = self._waiting.setdefault(event.transfer_id, [])
        if sum(w.request.connection == event.connection for w in others) >= _MOST_WAITING:
            raise EngineError(f"transfer {event.transfer_id} was opened {_MOST_WAITING} times")
        others.append(_Waiting(event, entry, self._books.now + UNKNOWN_WAIT_S))
        self.look_again(event.transfer_id)

    def closed(self, event: ImportClosed) -> None:
        """The rank reads no more, or waits no more."""
        connection, transfer_id, part = event.connection, event.transfer_id, event.part
        asker = (connection, part)
        for _ in self._take(transfer_id, lambda w: (w.request.connection, w.request.part) == asker):
            self._books.effects.append(FailImport(connection, transfer_id, "closed", part))
        for reception in self._unread(connection, transfer_id, part):
            reception.record.reads += 1
            self._books.announce(transfer_id)

    def waits_no_more(self, connection: int) -> None:
        """What is unanswered lapses; what is open stays so."""
        for transfer_id in list(self._waiting):
            self._take(transfer_id, lambda w: w.request.connection == connection)

    def connection_closed(self, connection: int) -> None:
        """Every import ends with its connection."""
        self.waits_no_more(connection)
        for owner, transfer_id, part in list(self._open):
            if owner == connection:
                self._unread(connection, transfer_id, part)

    def expire(self) -> None:
        """Fail imports of transfers that nobody has announced for too long."""
        now = self._books.now
        for transfer_id, waiting in list(self._waiting.items()):
            if any(w.unknown_until <= now for w in waiting):
                self.look_again(transfer_id)

    def look_again(self, transfer_id: str) -> None:
        """The transfer may have changed: answer what can be answered."""
        if transfer_id not in self._waiting:
            return
        every = self._waiting.pop(transfer_id)
        rest = [waiting for waiting in every if not self._answer(waiting)]
        if rest:
            self._waiting[transfer_id] = rest

    def check_integrity(self) -> None:
        """Raise InvariantError where readers are miscounted."""
        readers: dict[int, int] = {}
        every = [reception for opened in self._open.values() for reception in opened]
        for reception in every:
            readers[id(reception)] = readers.get(id(reception), 0) + 1
        for reception in every:
            if reception.readers != readers[id(reception)]:
                raise InvariantError(f"{reception.key} has {reception.readers} readers")

    def _take(self, transfer_id: str, wanted: Callable[[_Waiting], bool]) -> list[_Waiting]:
        every = self._waiting.pop(transfer_id, [])
        rest = [w for w in every if not wanted(w)]
        if rest:
            self._waiting[transfer_id] = rest
        return [w for w in every if wanted(w)]

    def _unread(self, connection: int, transfer_id: str, part: int) -> Iterable[Reception]:
        read = self._open.pop((connection, transfer_id, part), ())
        for reception in read:
            self._receptions.unread(reception)
        return read

    def _answer(self, waiting: _Waiting) -> bool:
        """Whether it could be answered."""
        request, books = waiting.request, self._books
        transfer_id, connection, part = request.transfer_id, request.connection, request.part
        reception = self._receptions.find(transfer_id, part)
        if reception is None:
            reason = self._why_not_here(waiting)
        else:
            reason = _difference(waiting, reception)
        if reason is not None:
            books.counters.imports_failed += 1
            books.report("import", transfer_id, reason, f" engine={waiting.entry.engine}")
            books.effects.append(FailImport(connection, transfer_id, reason, part))
        elif reception is None or reception.record.state is not ReceptionState.COMPLETE:
            return False
        else:
            books.counters.imports_ready += 1
            extents = self._begin_to_read(connection, reception)
            books.effects.append(AnswerImport(connection, transfer_id, extents, part))
        return True

    def _begin_to_read(self, connection: int, reception: Reception) -> tuple[Extent, ...]:
        """One reader per connection, however many requests of it read."""
        key = reception.key
        opened = self._open.setdefault((connection, key.transfer_id, key.rank), [])
        if reception not in opened:
            opened.append(reception)
            self._receptions.read(reception)
        return self._receptions.extents(reception)

    def _why_not_here(self, waiting: _Waiting) -> str | None:
        """Why there is no memory of it and none will come, or None."""
        transfer_id = waiting.request.transfer_id
        record = self._books.records.received(transfer_id, waiting.request.part)
        if record is not None and record.state is ReceptionState.FAILED:
            return record.reason or "failed"
        if self._books.is_cancelled(transfer_id):
            return "cancelled"
        return "no such transfer here" if self._books.now >= waiting.unknown_until else None


def _difference(waiting: _Waiting, reception: Reception) -> str | None:
    """Why these bytes are not those the engine means, or None."""
    request, offer = waiting.request, reception.offer
    # Who knows a transfer's id knows no prompt: a name or a length must not be told either.
    if waiting.entry.engine not in offer.readers:
        return "the transfer is not meant for this engine"
    if request.prompt_digest != offer.prompt_digest:
        return "the transfer is of another prompt, salt or adapter than the request's"
    expected = request.layout_fingerprint or waiting.entry.fingerprint
    if expected != offer.layout_fingerprint:
        return "the sender's KV layout differs from the one that this engine reads"
    for what in ("from_token", "to_token", "total_bytes"):
        asked, offered = getattr(request, what), getattr(offer, what)
        if asked != offered:
            return f"{what} differs: the engine asks for {asked}, the sender offered {offered}"
    return None
