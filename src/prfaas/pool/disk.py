"""What of the cache lies on the machine's disk, as far as the agent knows.

The books alone: the files are `agent.spill_files`'. Their sizes are bounded: before something is
written, what was used least recently is dropped. What is being read stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prfaas.core.errors import InvariantError
from prfaas.link.api import TransferKey
from prfaas.pool.books import Books, SpilledTransfer
from prfaas.pool.disk_events import SpillFound
from prfaas.pool.effects import AnnounceCached, AnnounceEvicted, DropSpilled
from prfaas.pool.entries import Entries
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill_format import file_bytes


@dataclass(eq=False, slots=True)
class OnDisk:
    """A file on disk. ``read``: it is being read."""

    what: KeptPrefix
    size: int
    read: bool = False


class Disk:
    """The books of one agent's disk.

    Args:
        most_bytes: of all files; 0: nothing is kept on disk.
    """

    def __init__(self, books: Books, *, most_bytes: int) -> None:
        self._books, self.most_bytes = books, most_bytes
        self._limit = most_bytes
        self._entries: Entries[OnDisk] = Entries()
        self.used_bytes = 0
        self._is_in_memory: Callable[[TransferKey], bool] = lambda key: False

    def lies_below(self, is_in_memory: Callable[[TransferKey], bool]) -> None:
        """What is in memory is told as such, whether or not it is here, too."""
        self._is_in_memory = is_in_memory

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[OnDisk]:
        return iter(self._entries)

    def get(self, key: TransferKey) -> OnDisk | None:
        """Of this transfer, if it is here."""
        return self._entries.get(key)

    def announcements(self) -> list[AnnounceCached]:
        """Of what is not in memory."""
        files = [entry.what for entry in self._entries]
        return [announced(what) for what in files if not self._is_in_memory(what.key)]

    def named(self, layout: str, name: bytes) -> list[OnDisk]:
        """As `Entries.named`: what is not in memory."""
        found = self._entries.named(layout, name)
        return [entry for entry in found if not self._is_in_memory(entry.what.key)]

    def found(self, event: SpillFound) -> None:
        """An earlier life of this agent has written it, under the key that this one began with.
        They come in the order of their use."""
        what = event.what
        size = file_bytes(what)
        known = self._entries.get(what.key) is not None or self._is_in_memory(what.key)
        known = known or self._books.naming > 0
        if known or self._entries.holding(what) is not None or not self.make_room(size):
            self._books.effects.append(DropSpilled(what.key))
            return
        self._books.counters.spill_found += 1
        self.add(OnDisk(what, size))
        self._books.effects.append(announced(what))

    def wants(self, what: KeptPrefix) -> bool:
        """Whether it is worth being written."""
        if not 0 < file_bytes(what) <= self.most_bytes or self._entries.get(what.key) is not None:
            return False
        other = self._entries.holding(what)
        if other is not None:
            self._entries.use(other)
        return other is None

    def views(self) -> tuple[SpilledTransfer, ...]:
        """Every file, the least recently used first."""
        return tuple(
            SpilledTransfer(
                transfer_id=entry.what.key.transfer_id,
                rank=entry.what.key.rank,
                layout=entry.what.layout,
                from_token=entry.what.from_token,
                to_token=entry.what.prefix.end_token,
                total_bytes=entry.what.total_bytes,
                file_bytes=entry.size,
                in_memory=self._is_in_memory(entry.what.key),
            )
            for entry in self._entries
        )

    def make_room(self, size: int) -> bool:
        """Drop what was used least recently; False, and nothing goes, where it takes more than may
        go."""
        missing = self.used_bytes + size - self._limit
        if size > self._limit or missing <= 0:
            return missing <= 0
        going = []
        for entry in self._entries:
            if missing <= 0:
                break
            if not entry.read:
                going.append(entry)
                missing -= entry.size
        if missing > 0:
            return False
        for entry in going:
            self.drop(entry)
        return True

    def add(self, entry: OnDisk) -> None:
        """It is written. What it has everything of goes."""
        for other in self._entries.replaced_by(entry.what):
            if not other.read:
                self.drop(other)
        self._entries.add(entry)
        self.used_bytes += entry.size

    def use(self, key: TransferKey) -> None:
        """What is used in memory is used here, too; a no-op where it is not here."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.use(entry)

    def drop(self, entry: OnDisk) -> None:
        """Its file goes."""
        self._entries.remove(entry)
        self.used_bytes -= entry.size
        self._tell_dropped(entry.what.key)

    def _tell_dropped(self, key: TransferKey) -> None:
        self._books.counters.spill_dropped += 1
        self._books.effects.append(DropSpilled(key))
        if not self._is_in_memory(key):
            self._books.effects.append(AnnounceEvicted(key))

    def forget(self) -> None:
        """Names are others now: every file goes, also one that is being read."""
        files = list(self._entries)
        self._entries.clear()
        self.used_bytes = 0
        for entry in files:
            self._tell_dropped(entry.what.key)

    def is_full(self) -> None:
        """The disk has no room for as much as it may hold: from now on, what comes takes the place
        of what goes."""
        self._limit = min(self._limit, self.used_bytes)

    def may_grow(self) -> None:
        """Try again whether there is room for all."""
        self._limit = self.most_bytes

    def check_integrity(self) -> None:
        """Raise InvariantError where sizes or names are wrong, or more is kept than may be."""
        self._entries.check_integrity()
        if sum(entry.size for entry in self._entries) != self.used_bytes:
            raise InvariantError(f"files on disk are not {self.used_bytes} bytes")
        if self.used_bytes > self.most_bytes:
            raise InvariantError(f"{self.used_bytes} bytes on disk of {self.most_bytes}")


def announced(what: KeptPrefix) -> AnnounceCached:
    """That it is found on disk."""
    stands_at = what.stands_at if what.needs_state else None
    return AnnounceCached(what.key, what.layout, what.prefix, stands_at, "disk")
