"""What a follower of an engine's cache is told: all that is held, and what has changed since, as
far as it is remembered.

Both take time on a slow line, and a line may break meanwhile. Therefore changes are remembered
until they are more than telling all that is held would be, and what is told is remembered as long
as the changes after it are: a follower goes on where it stopped, in the one as in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prfaas.index.cache_events import KeyedEvent
from prfaas.kv_events.wire import Held, packed

_LEAST_BYTES = 4 * 1024 * 1024
"""Of changes that are remembered in any case."""
_A_BLOCK = 128
"""Bytes of changes that are remembered for each block that is held. To tell it takes 25; in that
time no more of changes come up, packed, on a line that carries them at all, and what packing makes
of events of single blocks is a quarter. The rest is for who comes later to the same telling."""
_AT_ONCE = 256
"""Changes that a follower is given together: others get a turn after them."""


class Telling:
    """All that was held after change ``number``, piece by piece. What was made is kept: 25 bytes a
    block."""

    def __init__(self, number: int, events: Iterator[KeyedEvent]) -> None:
        self.number = number
        self._events, self._pieces = events, list[bytes]()

    def piece(self, at: int) -> bytes | None:
        """A packed frame; None at the end."""
        while at >= len(self._pieces):
            event = next(self._events, None)
            if event is None:
                return None
            self._pieces.append(packed(Held([event])))
        return self._pieces[at]


class Changes:
    """The last changes of a cache, numbered from 1, and what is being told of it."""

    def __init__(self) -> None:
        self.number = 0
        """Of the last one."""
        self._frames: list[bytes] = []
        self._forgotten = 0
        """At the beginning of the list."""
        self._bytes = 0
        self._tellings: dict[int, tuple[Telling, int]] = {}
        """By number, with the bytes of all changes up to it."""
        self._bytes_total = 0

    def add(self, frame: bytes, blocks: int) -> None:
        """Change ``number + 1``, after which ``blocks`` are held."""
        self.number += 1
        self._frames.append(frame)
        self._bytes += len(frame)
        self._bytes_total += len(frame)
        most = _most_bytes(blocks)
        while self._bytes > most:
            self._bytes -= len(self._frames[self._forgotten])
            self._frames[self._forgotten] = b""
            self._forgotten += 1
        if 2 * self._forgotten > len(self._frames):
            del self._frames[: self._forgotten]
            self._forgotten = 0
        for number in [n for n in self._tellings if not self._remembered(n)]:
            del self._tellings[number]

    def after(self, number: int) -> list[bytes] | None:
        """The next changes after this one; None where some are forgotten or it never was."""
        if not self._remembered(number):
            return None
        start = len(self._frames) - (self.number - number)
        return self._frames[start : start + _AT_ONCE]

    def telling(self, number: int) -> Telling | None:
        """The one that was begun after that change, while the changes since are remembered."""
        return self._tellings.get(number, (None, 0))[0]

    def newest_telling(self, blocks: int, make: Callable[[], Iterator[KeyedEvent]]) -> Telling:
        """One that leaves enough of what is remembered for the time that it takes. ``make``: what
        is held now."""
        for telling, bytes_total in self._tellings.values():
            if self._bytes_total - bytes_total <= _most_bytes(blocks) // 2:
                return telling
        made = Telling(self.number, make())
        self._tellings[self.number] = made, self._bytes_total
        return made

    def _remembered(self, number: int) -> bool:
        first = self.number - (len(self._frames) - self._forgotten)
        return first <= number <= self.number


def _most_bytes(blocks: int) -> int:
    return max(_LEAST_BYTES, _A_BLOCK * blocks)
