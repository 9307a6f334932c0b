"""Things of many owners that there is room for so many of: who goes where one more comes?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_SHARE = 8
"""Whose are more than this part of all pays for its newcomers itself."""
Item = TypeVar("Item", bound=Hashable)


class Crowd(Generic[Item]):
    """In the order in which they came."""

    def __init__(self) -> None:
        self.all: OrderedDict[Item, None] = OrderedDict()
        self._of: dict[str, OrderedDict[Item, None]] = {}

    def add(self, item: Item, whose: str) -> None:
        """As the newest."""
        self.all[item] = None
        self._of.setdefault(whose, OrderedDict())[item] = None

    def remove(self, item: Item, whose: str) -> bool:
        """Whether it was there."""
        if item not in self.all:
            return False
        del self.all[item]
        own = self._of[whose]
        del own[item]
        if not own:
            del self._of[whose]
        return True

    def makes_room(self, whose: str, most: int) -> Item:
        """Who goes where there are as many as there may be, and one more comes: the oldest, of the
        newcomer's own where those are many."""
        own = self._of.get(whose, ())
        return next(iter(own if len(own) * _SHARE > most else self.all))
