"""Copies of cached prefixes that are awaited from other agents: see `copies`."""

from __future__ import annotations

from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferOffer
from prfaas.pool.books import Books
from prfaas.pool.description import Description
from prfaas.pool.events import CopyAwaited

MOST_AWAITED = 1024
"""Of one agent. What one more displaces arrives, and is not cached."""


class AwaitedCopies:
    """What gateways have said that copies are of which other agents will send here."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._awaited: dict[str, tuple[Prefix, float]] = {}

    def awaited(self, event: CopyAwaited) -> None:
        """Until its deadline."""
        self.expire()
        while len(self._awaited) >= MOST_AWAITED:
            del self._awaited[next(iter(self._awaited))]
        self._awaited[event.copy_id] = event.prefix, self._books.now + event.deadline_s

    def description(self, offer: TransferOffer) -> Description | None:
        """What an offer is of, if it is such a copy and an engine here could read it."""
        found = self._awaited.get(offer.key.transfer_id)
        if found is None or offer.readers or offer.prompt_digest != found[0].digest():
            return None
        for engine in self._books.engines.entries():
            description = Description(found[0], engine.layout, self._books.naming)
            if description.reads(offer) and description.fault(offer) is None:
                return description
        return None

    def cancelled(self, transfer_id: str) -> None:
        """It will not come, or is not wanted."""
        self._awaited.pop(transfer_id, None)

    def forget(self) -> None:
        """They go by other names now: what comes is not cached."""
        self._awaited.clear()

    def expire(self) -> None:
        """Forget what has not come."""
        now = self._books.now
        for copy_id in [c for c, (_, until) in self._awaited.items() if until <= now]:
            del self._awaited[copy_id]
