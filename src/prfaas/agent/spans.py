"""Spans of an agent's transfers: what it sends and what it receives for requests that are traced.

They stand between the pool's port and the link, and only where tracing is on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from prfaas.link.api import (
    Link,
    LinkState,
    OutgoingTransfer,
    Reception,
    Refusal,
    TransferKey,
    TransferOffer,
    TransferSink,
)
from prfaas.pool.effects import HandedOver
from prfaas.process.spans import Spans


def attributes_of(offer: TransferOffer) -> dict[str, Any]:
    """What a span says of a transfer: which, how large, of which of the sender's ranks."""
    return {
        "prfaas.transfer_id": offer.key.transfer_id,
        "prfaas.attempt": None if offer.context is None else offer.context.attempt,
        "prfaas.rank": offer.key.rank,
        "prfaas.kv_bytes": offer.total_bytes,
        "prfaas.from_token": offer.from_token,
        "prfaas.to_token": offer.to_token,
    }


class TracedLink:
    """`Link`, with a span ``kv send`` from each offer to its end."""

    def __init__(
        self, link: Link, spans: Spans, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        self._link, self._spans, self._unix_time = link, spans, unix_time

    def send(
        self,
        peer: str,
        offer: TransferOffer,
        *,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> OutgoingTransfer:
        """See `link.api.Link`."""
        context = offer.context
        if context is None:
            return self._link.send(peer, offer, on_complete=on_complete, on_failed=on_failed)
        began_at = self._unix_time()
        said = {**attributes_of(offer), "prfaas.peer": peer}

        def completed() -> None:
            on_complete()
            self._spans.record("kv send", context, began_at, self._unix_time(), said)

        def failed(reason: str) -> None:
            on_failed(reason)
            self._spans.record("kv send", context, began_at, self._unix_time(), said, failed=True)

        return self._link.send(peer, offer, on_complete=completed, on_failed=failed)

    def abandon(self, key: TransferKey, reason: str) -> None:
        """See `link.api.Link`."""
        self._link.abandon(key, reason)

    def states(self) -> Sequence[LinkState]:
        """See `link.api.Link`."""
        return self._link.states()

    def close(self) -> None:
        """See `link.api.Link`."""
        self._link.close()


class LocalHandOffs:
    """A span ``kv hand-over`` for each hand-off between two engines of this machine."""

    def __init__(self, spans: Spans, *, unix_time: Callable[[], float] = time.time) -> None:
        self._spans, self._unix_time = spans, unix_time

    def over(self, effect: HandedOver) -> None:
        """All of its bytes are there, or it was given up."""
        offer, now = effect.offer, self._unix_time()
        assert offer.context is not None
        self._spans.record(
            "kv hand-over",
            offer.context,
            now - effect.took_s,
            now,
            attributes_of(offer),
            failed=effect.failed,
        )


class TracedSink:
    """`TransferSink`, with a span ``kv receive`` from an offer that is accepted to its end."""

    def __init__(
        self, sink: TransferSink, spans: Spans, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        self._sink, self._spans, self._unix_time = sink, spans, unix_time
        self._begun: dict[TransferKey, tuple[float, str, TransferOffer]] = {}
        self.stored = sink.stored

    def offered(self, peer: str, offer: TransferOffer) -> Reception | Refusal:
        """See `link.api.TransferSink`."""
        began_at = self._unix_time()
        answer = self._sink.offered(peer, offer)
        if offer.context is not None and not isinstance(answer, Refusal):
            self._begun[offer.key] = began_at, peer, offer
        return answer

    def completed(self, key: TransferKey) -> None:
        """See `link.api.TransferSink`."""
        self._sink.completed(key)
        self._end(key, failed=False)

    def failed(self, key: TransferKey, reason: str) -> None:
        """See `link.api.TransferSink`."""
        self._sink.failed(key, reason)
        self._end(key, failed=True)

    def withdrawn(self, key: TransferKey, reason: str) -> None:
        """See `link.api.TransferSink`."""
        self._sink.withdrawn(key, reason)

    def _end(self, key: TransferKey, *, failed: bool) -> None:
        begun = self._begun.pop(key, None)
        if begun is None:
            return
        began_at, peer, offer = begun
        assert offer.context is not None
        said = {**attributes_of(offer), "prfaas.peer": peer}
        self._spans.record(
            "kv receive", offer.context, began_at, self._unix_time(), said, failed=failed
        )
