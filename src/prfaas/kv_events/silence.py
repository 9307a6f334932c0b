"""Why nothing is heard of an engine's cache: each cause is said once, as long as that lasts."""

from __future__ import annotations

_MOST = 8
"""What an agent or engine says of itself may be another each time."""


class Silence:
    """The causes that were said since something was last heard."""

    def __init__(self) -> None:
        self._said = set[str]()

    def is_new(self, why: str) -> bool:
        """Whether this cause is to be said."""
        new = why not in self._said and len(self._said) < _MOST
        if new:
            self._said.add(why)
        return new

    def ends(self) -> None:
        """Something is heard again."""
        self._said.clear()
