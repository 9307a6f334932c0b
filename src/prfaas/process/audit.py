"""The record of refusals (`prfaas.audit`): a line a second for each cause, and all are counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping

logger = logging.getLogger("prfaas.audit")

_PERIOD_S = 1.0


class Audit:
    """Whoever is refused may ask thousands of times: what comes within a second of a line is
    counted, and said when that second is over, also where nobody asks any more."""

    def __init__(self) -> None:
        self._meanwhile: dict[Hashable, tuple[int, str, Mapping[str, object]]] = {}
        """Since its last line, of each cause of which there was one within a second: how often it
        has happened, and the latest."""

    def note(self, cause: Hashable, line: str, extra: Mapping[str, object]) -> None:
        """``line``: without how often. ``extra``: fields for logs in JSON. In a running loop."""
        said = self._meanwhile.get(cause)
        if said is None:
            self._say(cause, 1, line, extra)
        else:
            self._meanwhile[cause] = said[0] + 1, line, extra

    def _say(self, cause: Hashable, times: int, line: str, extra: Mapping[str, object]) -> None:
        logger.warning("%s times=%d", line, times, extra=extra)
        self._meanwhile[cause] = 0, line, extra
        asyncio.get_running_loop().call_later(_PERIOD_S, self._second_over, cause)

    def _second_over(self, cause: Hashable) -> None:
        times, line, extra = self._meanwhile.pop(cause)
        if times:
            self._say(cause, times, line, extra)
