"""The record of what an agent refused to whom: a line of the log, and a count."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

from prfaas.core.addresses import Address
from prfaas.core.once_a_second import OnceASecond
from prfaas.tls.context import names_of

logger = logging.getLogger("prfaas.audit")


class Refusals:
    """Writes one line a second for each peer and cause, with how many there were."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        """By cause."""
        self._lines = OnceASecond()

    def note(self, cause: str, transport: asyncio.BaseTransport | None, asked: str) -> None:
        """``asked``: what was refused, as far as it may be told."""
        self.total[cause] += 1
        told = None if transport is None else transport.get_extra_info("peername")
        remote = str(Address(*told[:2])) if told else "unknown"
        peer = None if transport is None else transport.get_extra_info("peercert")
        who = ",".join(sorted(names_of(peer))) or "unknown"
        times = self._lines.times((who, cause), time.monotonic())
        if times:
            logger.warning(
                "refused cause=%s peer=%s remote=%s asked=%r times=%d",
                cause, who, remote, asked[:200], times, extra={"peer": who, "cause": cause},
            )  # fmt: skip
