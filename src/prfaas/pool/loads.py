"""Engines that read cached prefixes.

A load asks for a prefix by its names and is answered at once: either entries together cover what
the engine lacks of it, and stay until the load is closed, or it fails and the engine computes.
"""

from __future__ import annotations

from collections.abc import Iterator

from prfaas.core.errors import EngineError
from prfaas.core.prefixes import DIGEST_BYTES
from prfaas.pool.books import Books
from prfaas.pool.cache import Cache, Entry
from prfaas.pool.effects import AnswerLoad, CachedPart, FailLoad
from prfaas.pool.events import LoadClosed, LoadOpened
from prfaas.pool.slots import ArenaFull


class Loads:
    """Every load that reads, by connection and its number there."""

    def __init__(self, books: Books, cache: Cache) -> None:
        self._books, self._cache = books, cache
        self._open: dict[tuple[int, int], list[Entry]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, event: LoadOpened) -> None:
        """Answered at once. Raises EngineError for one that makes no sense."""
        books = self._books
        entry = books.engines.of(event.connection)
        _check(event)
        if (event.connection, event.load) in self._open:
            raise EngineError(f"load {event.load} is open already")
        layout = event.layout_fingerprint or entry.fingerprint
        found = self._find(layout, event)
        reason = f"tokens up to {event.to_token} are not cached here"
        if found:
            try:
                self._pin(found)
            except ArenaFull as error:
                found, reason = [], str(error)
        if not found:
            books.counters.loads_failed += 1
            books.report("load", str(event.load), reason, f" engine={entry.engine}")
            books.effects.append(FailLoad(event.connection, event.load, reason))
            return
        books.counters.loads_ready += 1
        books.counters.loaded_tokens += event.to_token - event.local_tokens
        self._open[event.connection, event.load] = found
        parts = tuple(CachedPart(e.from_token, e.to_token, e.extents) for e in found)
        books.effects.append(AnswerLoad(event.connection, event.load, parts))

    def closed(self, event: LoadClosed) -> None:
        """It has read what it wanted."""
        for entry in self._open.pop((event.connection, event.load), ()):
            self._cache.unpin(entry)

    def connection_closed(self, connection: int) -> None:
        """Every load ends with its connection."""
        for owner, load in list(self._open):
            if owner == connection:
                self.closed(LoadClosed(owner, load))

    def reading(self) -> Iterator[Entry]:
        """What is read, once for each load."""
        return (entry for entries in self._open.values() for entry in entries)

    def _find(self, layout: str, event: LoadOpened) -> list[Entry]:
        """Entries that cover [local_tokens, to_token), the last first; none where there are none.

        Each begins before the one after it, so this ends; where several go on from a token, those
        that lead nowhere are tried once.
        """
        path: list[Entry] = []
        dead: set[int] = set()
        choices = [iter(self._resuming(layout, event))]
        while choices:
            entry = next(choices[-1], None)
            if entry is None:
                choices.pop()
                if path:
                    dead.add(path.pop().from_token)
            elif entry.from_token <= event.local_tokens:
                return [*path, entry]
            elif entry.from_token not in dead:
                path.append(entry)
                name = event.names[entry.from_token // event.block_tokens - 1]
                choices.append(iter(self._cache.named(layout, name)))
        return []

    def _resuming(self, layout: str, event: LoadOpened) -> list[Entry]:
        """Entries by which an engine can go on from where the load ends."""
        name = event.names[event.to_token // event.block_tokens - 1]
        found = self._cache.named(layout, name)
        return [entry for entry in found if entry.resumes_at(event.to_token)]

    def _pin(self, entries: list[Entry]) -> None:
        """All of them or none. Raises ArenaFull."""
        pinned: list[Entry] = []
        try:
            for entry in entries:
                self._cache.pin(entry)
                pinned.append(entry)
        except ArenaFull:
            for entry in pinned:
                self._cache.unpin(entry)
            raise
        self._cache.use(entries[0])


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
