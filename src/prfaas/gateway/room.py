"""Memory for answers of which all that has come is held, and who gives up where it is full."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Protocol


class Holder(Protocol):
    """Who holds memory of a `Room`."""

    @property
    def ended(self) -> bool:
        """Whether it gives all of it back in a moment."""

    @property
    def whose(self) -> str:
        """A tenant's name; empty where nobody in particular has it. It stays the same."""

    @property
    def left(self) -> int:
        """Bytes of what it holds that are still to be passed on."""

    def out_of_room(self) -> None:
        """It holds most, and there is no more: it is to give up."""


class Room:
    """For answers of which all that has come is held: ``most`` bytes. Where they are more, whoever
    has most left gives up, of the tenant that has most: large answers are not at the cost of small
    ones, nor one tenant's many at the cost of others' few."""

    def __init__(self, most: float = inf) -> None:
        self.most, self.held = most, 0
        self._held_by: dict[Holder, int] = {}
        self._held_of: Counter[str] = Counter()

    def take(self, holder: Holder, size: int) -> None:
        """It holds so many bytes more, unless it is told to give up."""
        self._held_by[holder] = self._held_by.get(holder, 0) + size
        self._held_of[holder.whose] += size
        self.held += size
        while self.held > self.most:
            largest = max(self._held_by, key=self._gives_up)
            if largest.ended:
                return
            self.give_back(largest)
            largest.out_of_room()

    def give_back(self, holder: Holder) -> None:
        """It holds nothing more. Nothing where it has given up."""
        held = self._held_by.pop(holder, 0)
        self.held -= held
        self._held_of[holder.whose] -= held
        if not self._held_of[holder.whose]:
            del self._held_of[holder.whose]

    def _gives_up(self, holder: Holder) -> tuple[int, bool, int]:
        """The greatest does; nobody where that gives all back in a moment: others may have as much
        meanwhile."""
        return self._held_of[holder.whose], not holder.ended, holder.left
