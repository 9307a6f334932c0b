"""Engines that read cached prefixes.

A load asks for a prefix by its names. Where entries together cover what the engine lacks of it,
they stay until the load is closed, and it is answered at once; where some of it lies on disk alone,
as soon as that is in memory. Otherwise it fails, and the engine computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prfaas.core.errors import CapacityError, EngineError
from prfaas.core.prefixes import DIGEST_BYTES
from prfaas.link.api import TransferKey
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache, Entry
from prfaas.pool.disk import Disk, OnDisk
from prfaas.pool.effects import AnswerLoad, CachedPart, FailLoad
from prfaas.pool.events import LoadClosed, LoadOpened
from prfaas.pool.spill import Spill

_Named = Callable[[str, bytes], list[Entry | OnDisk]]


LEAST_S, LEAST_BYTES_PER_S = 5.0, 100e6
"""What has not come from disk after so long, and as long as so slow a disk takes, is computed."""


@dataclass(eq=False, slots=True)
class _Load:
    event: LoadOpened
    engine: str
    entries: list[Entry]
    until: float
    answered: bool = False


class Loads:
    """Every load that reads, by connection and its number there."""

    def __init__(self, books: Books, cache: Cache, disk: Disk, spill: Spill) -> None:
        self._books, self._cache, self._disk, self._spill = books, cache, disk, spill
        self._open: dict[tuple[int, int], _Load] = {}
        self._waiting: dict[tuple[int, int], _Load] = {}
        """Those that are not answered."""

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, event: LoadOpened) -> None:
        """Answered now, or when what it needs is in memory. Raises EngineError for one that makes
        no sense."""
        books, place = self._books, (event.connection, event.load)
        entry = books.engines.of(event.connection)
        _check(event)
        if place in self._open:
            raise EngineError(f"load {event.load} is open already")
        layout = event.layout_fingerprint or entry.fingerprint
        found = self._find(layout, event, self._in_memory) or (
            self._find(layout, event, self._anywhere) if len(self._disk) else []
        )
        reason = f"tokens up to {event.to_token} are not cached here"
        entries: list[Entry] = []
        if found:
            try:
                entries = self._pin(found)
            except CapacityError as error:
                reason = str(error)
        if not entries:
            self._fail(event, entry.engine, reason)
            return
        size = sum(e.what.total_bytes for e in entries if e.arriving)
        until = books.now + LEAST_S + size / LEAST_BYTES_PER_S
        self._open[place] = self._waiting[place] = load = _Load(event, entry.engine, entries, until)
        self._answer_if_whole(load)

    def closed(self, event: LoadClosed) -> None:
        """It has read what it wanted, or waits no more."""
        place = event.connection, event.load
        self._waiting.pop(place, None)
        load = self._open.pop(place, None)
        for entry in () if load is None else load.entries:
            self._cache.unpin(entry)

    def connection_closed(self, connection: int) -> None:
        """Every load ends with its connection."""
        for owner, load in list(self._open):
            if owner == connection:
                self.closed(LoadClosed(owner, load))

    def read_back(self, key: TransferKey, reason: str | None) -> None:
        """An entry has come from disk, or will not."""
        for load in list(self._waiting.values()):
            if all(entry.key != key for entry in load.entries):
                continue
            if reason is None:
                self._answer_if_whole(load)
            else:
                load.entries = [entry for entry in load.entries if entry.key != key]
                self._give_up(load, reason)

    def expire(self) -> None:
        """Fail what has waited too long for the disk."""
        for load in [w for w in self._waiting.values() if w.until <= self._books.now]:
            self._give_up(load, "the disk is too slow")

    def reading(self) -> Iterator[Entry]:
        """What is read, once for each load."""
        return (entry for load in self._open.values() for entry in load.entries)

    def _answer_if_whole(self, load: _Load) -> None:
        if any(entry.arriving for entry in load.entries):
            return
        event, counters = load.event, self._books.counters
        del self._waiting[event.connection, event.load]
        counters.loads_ready += 1
        counters.loaded_tokens += event.to_token - event.local_tokens
        parts = tuple(CachedPart(e.from_token, e.to_token, e.extents) for e in load.entries)
        self._books.effects.append(AnswerLoad(event.connection, event.load, parts))

    def _give_up(self, load: _Load, reason: str) -> None:
        event = load.event
        self.closed(LoadClosed(event.connection, event.load))
        self._fail(event, load.engine, reason)

    def _fail(self, event: LoadOpened, engine: str, reason: str) -> None:
        self._books.counters.loads_failed += 1
        self._books.report("load", str(event.load), reason, f" engine={engine}")
        self._books.effects.append(FailLoad(event.connection, event.load, reason))

    def _in_memory(self, layout: str, name: bytes) -> list[Entry | OnDisk]:
        return list(self._cache.named(layout, name))

    def _anywhere(self, layout: str, name: bytes) -> list[Entry | OnDisk]:
        """What reaches equally far is rather read from memory."""
        found = [*self._in_memory(layout, name), *self._disk.named(layout, name)]
        return sorted(found, key=lambda entry: entry.what.from_token)

    def _find(self, layout: str, event: LoadOpened, named: _Named) -> list[Entry | OnDisk]:
        """Entries that cover [local_tokens, to_token), the last first; none where there are none.

        Each begins before the one after it, so this ends; where several go on from a token, those
        that lead nowhere are tried once.
        """
        path: list[Entry | OnDisk] = []
        dead: set[int] = set()
        choices = [iter(_resuming(layout, event, named))]
        while choices:
            entry = next(choices[-1], None)
            if entry is None:
                choices.pop()
                if path:
                    dead.add(path.pop().what.from_token)
            elif entry.what.from_token <= event.local_tokens:
                return [*path, entry]
            elif entry.what.from_token not in dead:
                path.append(entry)
                name = event.names[entry.what.from_token // event.block_tokens - 1]
                choices.append(iter(named(layout, name)))
        return []

    def _pin(self, found: list[Entry | OnDisk]) -> list[Entry]:
        """All of them or none; those on disk come. Raises CapacityError."""
        pinned: list[Entry] = []
        try:
            for entry in found:
                if isinstance(entry, Entry):
                    self._cache.pin(entry)
                    pinned.append(entry)
            come = {}
            for entry in found:
                if isinstance(entry, OnDisk):
                    come[entry.what.key] = arriving = self._spill.read(entry)
                    self._cache.pin(arriving)
                    pinned.append(arriving)
        except CapacityError:
            for held in pinned:
                self._cache.unpin(held)
            raise
        entries = [e if isinstance(e, Entry) else come[e.what.key] for e in found]
        self._cache.use(entries[0])
        return entries


def _resuming(layout: str, event: LoadOpened, named: _Named) -> list[Entry | OnDisk]:
    """Entries by which an engine can go on from where the load ends."""
    found = named(layout, event.names[event.to_token // event.block_tokens - 1])
    return [entry for entry in found if entry.what.resumes_at(event.to_token)]


def _check(event: LoadOpened) -> None:
    size, end = event.block_tokens, event.to_token
    whole = size > 0 and end > 0 and end % size == 0
    if not whole or not 0 <= event.local_tokens < end or len(event.names) < end // size:
        raise EngineError(
            f"a load of tokens [{event.local_tokens}, {end}) in blocks of {size} with "
            f"{len(event.names)} names makes no sense"
        )
    if any(len(name) != DIGEST_BYTES for name in event.names):
        raise EngineError(f"names of prefixes have {DIGEST_BYTES} bytes")
