"""The engines of an index: their bits in holder sets, and which are matched together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from prfaas.core.errors import InvariantError
from prfaas.index.matching import Family, Group


class Member(Protocol):
    """One engine. Its groups have a plane each, from 0 on."""

    name: str
    blocks: int
    number: int
    planes: int
    bits: int

    def clear(self) -> None:
        """It holds nothing any more."""


class Members:
    """Gives each engine an id, which is its bit in every plane. An engine that is cleared leaves
    its bits in sets: they are dead, nobody matches them, and its id is used again when they are
    gone.

    Args:
        most: how many engines there can be.
        tidy: does a little towards having more ids; False where nothing can be done.
    """

    def __init__(self, most: int, tidy: Callable[[], bool]) -> None:
        self.width = -(-(2 * most + 8) // 64) * 64
        """Bits in a plane: engines, and as many ids whose bits are dead."""
        self._tidy = tidy
        self._owners: list[Member | None] = [None] * self.width
        self._names = np.full(self.width, None, object)
        """Of the owners, to be taken out many at a time."""
        self._unused = list(range(self.width - 1, -1, -1))
        self._families: dict[tuple[Group, ...], Family] = {}
        self._cleared: list[int] = []
        self._dead = 0

    @property
    def families(self) -> Iterable[Family]:
        """Engines by their groups."""
        return self._families.values()

    @property
    def alive_members(self) -> list[Member]:
        """Those that have an id."""
        return [owner for owner in self._owners if owner is not None]

    @property
    def cleared(self) -> bool:
        """Whether there are ids to `take_cleared`."""
        return bool(self._cleared)

    def alive(self, mask: int) -> int:
        """Holders without dead bits."""
        return mask & ~self._dead

    def admit(self, member: Member) -> int:
        """An id. Raises InvariantError where there are more engines than there can be."""
        while not self._unused and self._tidy():
            pass
        if not self._unused:
            raise InvariantError("more engines than the index was made for")
        number = self._unused.pop()
        self._owners[number] = member
        self._names[number] = member.name
        return number

    def dismiss(self, member: Member) -> None:
        """It holds nothing any more, and gives its id back."""
        self._owners[member.number] = self._names[member.number] = None
        self._cleared.append(member.number)
        for plane in range(member.planes):
            self._dead |= 1 << (plane * self.width + member.number)

    def take_cleared(self) -> tuple[list[int], int]:
        """Ids to be cleaned up after, and all dead bits of now. Give them to `give_back`."""
        cleared, self._cleared = self._cleared, []
        return cleared, self._dead

    def give_back(self, ids: list[int], dead: int) -> None:
        """These bits are in no set any more."""
        self._dead &= ~dead
        self._unused += ids

    def regroup(self, number: int, before: tuple[Group, ...], groups: tuple[Group, ...]) -> None:
        """The engine with this id has these groups now; it is in no family while it has none."""
        if before:
            family = self._families[before]
            family.engines &= ~(1 << number)
            if not family.engines:
                del self._families[before]
        if groups:
            if groups not in self._families:
                self._families[groups] = Family(groups, self.width)
            self._families[groups].engines |= 1 << number

    def names(self, engines: int) -> list[str]:
        """Of engines, all of them admitted, that are given as bits in a plane."""
        octets = np.frombuffer(engines.to_bytes(self.width // 8, "little"), np.uint8)
        numbers = np.flatnonzero(np.unpackbits(octets, bitorder="little"))
        names: list[str] = self._names[numbers].tolist()
        return names

    def lost(self, mask: int) -> None:
        """A block with these holders was evicted."""
        mask = self.alive(mask)
        while mask:
            lowest = mask & -mask
            owner = self._owners[(lowest.bit_length() - 1) % self.width]
            if owner is not None:
                owner.blocks -= 1
            mask ^= lowest
