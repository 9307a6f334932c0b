"""The KV link of an agent that the deployment gives none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prfaas.core.errors import LinkError
from prfaas.link.api import LinkState, OutgoingTransfer, TransferKey, TransferOffer


class NoLink:
    """A `Link` over which nothing is sent, and nothing comes."""

    def send(
        self,
        peer: str,
        offer: TransferOffer,
        *,
        on_complete: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> OutgoingTransfer:
        raise LinkError(f"no link to agent {peer!r} in the deployment")

    def abandon(self, key: TransferKey, reason: str) -> None:
        pass

    def states(self) -> Sequence[LinkState]:
        return []

    def close(self) -> None:
        pass
