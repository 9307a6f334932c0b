"""As if what somebody sends came over a line of its own, however fast it comes."""

from __future__ import annotations

import asyncio


class Lines:
    """Each sender's, of one rate a second: of bytes, or of whatever takes time here."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._clear_at: dict[str, float] = {}
        """By the event loop's clock."""

    def comes_in_s(self, size: int, whose: str | None) -> float:
        """After how long so much more has come; of none, or less, at once."""
        if size <= 0:
            return 0.0
        now, name = asyncio.get_running_loop().time(), whose or ""
        at = max(now, self._clear_at.get(name, now)) + size / self._per_s
        self._clear_at[name] = at
        return at - now
