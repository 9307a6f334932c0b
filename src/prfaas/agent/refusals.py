"""The record of what an agent refused to whom: a line of the log, and a count."""

from __future__ import annotations

import asyncio
from collections import Counter

from prfaas.core.addresses import Address
from prfaas.process.audit import Audit
from prfaas.tls.context import names_of


class Refusals:
    """Writes one line a second for each peer and cause, with how many there were."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        """By cause."""
        self._audit = Audit()

    def note(self, cause: str, transport: asyncio.BaseTransport | None, asked: str) -> None:
        """``asked``: what was refused, as far as it may be told."""
        self.total[cause] += 1
        told = None if transport is None else transport.get_extra_info("peername")
        remote = str(Address(*told[:2])) if told else "unknown"
        peer = None if transport is None else transport.get_extra_info("peercert")
        who = ",".join(sorted(names_of(peer))) or "unknown"
        self._audit.note(
            (who, cause),
            f"refused cause={cause} peer={who} remote={remote} asked={asked[:200]!r}",
            {"peer": who, "cause": cause},
        )
