"""What may happen thousands of times a second is said once a second, with how often it happened."""

from __future__ import annotations

from collections.abc import Hashable

_MOST_CAUSES = 256


class OnceASecond:
    """Bounded: of more causes than it can tell apart the oldest is forgotten."""

    def __init__(self, period_s: float = 1.0) -> None:
        self._period_s = period_s
        self._said: dict[Hashable, tuple[float, int]] = {}

    def times(self, cause: Hashable, now: float) -> int:
        """How often it has happened since it was last said, this time included; 0 where it is not
        to be said now. ``now`` in seconds, never going back."""
        said_at, since = self._said.get(cause, (-float("inf"), 0))
        if now - said_at < self._period_s:
            self._said[cause] = said_at, since + 1
            return 0
        self._said.pop(cause, None)
        if len(self._said) >= _MOST_CAUSES:
            del self._said[next(iter(self._said))]
        self._said[cause] = now, 0
        return since + 1
