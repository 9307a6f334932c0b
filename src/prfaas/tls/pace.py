"""Small TLS records are read a piece at a time.

A loop deciphers all that is there before anybody is told, at once: of eight megabytes in records of
a byte it does nothing else for half a second each time. So a connection over which many have come
is not read until as many would have come at an honest pace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prfaas.tls.records import Watched

SMALL_RECORDS_PER_S = 100_000
"""From each tenant, all strangers, or each machine that is asked: each takes more than a
microsecond."""
FEW_RECORDS = 256
"""So many small ones are no matter."""


class Pace:
    """One connection's, which is to let it go once it is lost.

    Args:
        comes_in_s: after how long so many small ones have come.
        pause, resume: reading, of which the latter is for other reasons to wait as well.
    """

    def __init__(
        self,
        records: Watched,
        comes_in_s: Callable[[int], float],
        *,
        pause: Callable[[], object],
        resume: Callable[[], object],
    ) -> None:
        self.records = records
        self._comes_in_s, self._pause, self._resume = comes_in_s, pause, resume
        self.holds = False
        """Whether nothing is to be read now."""

    def came(self, size: int) -> None:
        """So many bytes are told."""
        small = self.records.small(size)
        if small < FEW_RECORDS or self.holds:
            return
        self.holds = True
        self._pause()
        asyncio.get_running_loop().call_later(self._comes_in_s(small), self._go_on)

    def _go_on(self) -> None:
        self.holds = False
        self._resume()
