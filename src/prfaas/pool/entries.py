"""Kept prefixes by name, and in the order in which they may go.

Theory of operation. A kept prefix is one rank's part of a transfer of tokens [a, b) of a prompt:
for each KV group the blocks that it carried, and the recurrent states at b's last block end. It is
found by the names of its prefix (`core.prefixes`), under the fingerprint of the layout its pages
have. Those of one prompt follow each other: one that begins at token a is of use where others, or
the engine's own cache, cover the tokens before a.

What goes first is the least recently used. Using one uses all those it stands on too, and those
count as used *after* it: so an early block, which serves more prompts, outlives the later ones, and
a state goes before the blocks without which it is worthless.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from prfaas.core.errors import InvariantError
from prfaas.link.api import TransferKey
from prfaas.pool.kept import KeptPrefix


class Named(Protocol):
    """Something kept that has a prefix for its name."""

    @property
    def what(self) -> KeptPrefix:
        """Of what it is."""


T = TypeVar("T", bound=Named)
_Places = dict[tuple[str, bytes], list[T]]
"""Entries by layout and name."""


class Entries(Generic[T]):
    """Kept prefixes, the least recently used first."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[TransferKey, T] = OrderedDict()
        self._named: _Places[T] = {}
        self._ending: _Places[T] = {}
        """By the last of their names: of many that begin alike few end alike."""

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[T]:
        return iter(self._by_key.values())

    def get(self, key: TransferKey) -> T | None:
        """Of this transfer, if it is here."""
        return self._by_key.get(key)

    def add(self, entry: T) -> None:
        """As the one used last, and with it what it stands on."""
        what = entry.what
        self._by_key[what.key] = entry
        for name in what.prefix.digests:
            self._named.setdefault((what.layout, name), []).append(entry)
        self._ending.setdefault(_end_of(what), []).append(entry)
        self.use(entry)

    def remove(self, entry: T) -> None:
        """It is here no more."""
        what = entry.what
        del self._by_key[what.key]
        for name in what.prefix.digests:
            _take(self._named, (what.layout, name), entry)
        _take(self._ending, _end_of(what), entry)

    def clear(self) -> None:
        """None is here any more: at once, where there are millions of names."""
        for places in (self._by_key, self._named, self._ending):
            places.clear()

    def named(self, layout: str, name: bytes) -> list[T]:
        """Those that hold the block after which a prefix has this name; those that reach furthest
        back first."""
        return sorted(self._named.get((layout, name), ()), key=lambda entry: entry.what.from_token)

    def use(self, entry: T) -> None:
        """It serves a prompt, and so do those that it stands on."""
        for current in self.stands_on(entry):
            self._by_key.move_to_end(current.what.key)

    def stands_on(self, entry: T) -> Iterator[T]:
        """The entry, and those that cover the tokens before it, the last first."""
        current: T | None = entry
        while current is not None:
            yield current
            what = current.what
            before = self.named(what.layout, what.prefix.parent)
            current = next((e for e in before if e.what.from_token < what.from_token), None)

    def holding(self, what: KeptPrefix) -> T | None:
        """One that has all of this already."""
        for other in self.named(what.layout, what.prefix.digests[-1]):
            covers = other.what.from_token <= what.from_token
            if covers and other.what.resumes_at(what.prefix.end_token):
                return other
        return None

    def replaced_by(self, what: KeptPrefix) -> list[T]:
        """Those of which this one holds everything."""
        return [
            other
            for name in what.prefix.digests
            for other in self._ending.get((what.layout, name), ())
            if other.what.from_token >= what.from_token and what.resumes_at(other.what.stands_at)
        ]

    def check_integrity(self) -> None:
        """Raise InvariantError where keys and names contradict each other."""
        for key, entry in self._by_key.items():
            if entry.what.key != key:
                raise InvariantError(f"kept {key} is {entry.what.key}")
            for name in entry.what.prefix.digests:
                if entry not in self._named[entry.what.layout, name]:
                    raise InvariantError(f"kept {key} is not found by its name")
            if entry not in self._ending[_end_of(entry.what)]:
                raise InvariantError(f"kept {key} is not found by its end")
        named = sum(len(entries) for entries in self._named.values())
        if named != sum(len(entry.what.prefix.digests) for entry in self):
            raise InvariantError("a name leads to what is not kept")
        if sum(len(entries) for entries in self._ending.values()) != len(self):
            raise InvariantError("an end is of what is not kept")


def _end_of(what: KeptPrefix) -> tuple[str, bytes]:
    return what.layout, what.prefix.digests[-1]


def _take(places: _Places[T], place: tuple[str, bytes], entry: T) -> None:
    places[place].remove(entry)
    if not places[place]:
        del places[place]
