"""What an engine has said that a transfer is of: what makes it an entry of the cache."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.core.layout import KvLayout
from prfaas.core.prefixes import Prefix
from prfaas.link.api import TransferOffer
from prfaas.pool.cache import Entry
from prfaas.pool.kept import KeptPrefix


class Description(NamedTuple):
    """What an engine has said that a transfer is of, and the layout of the engine that said it.
    ``naming``: see `Books`."""

    prefix: Prefix
    layout: KvLayout
    naming: int = 0

    def check(self, offer: TransferOffer) -> None:
        """Raises EngineError where the transfer cannot be of that."""
        fault = self.fault(offer)
        if fault is not None:
            raise EngineError(f"transfer {offer.key.transfer_id} is not of that prefix: {fault}")

    def fault(self, offer: TransferOffer) -> str | None:
        """Why the transfer cannot be of that, or None."""
        prefix = self.prefix
        fault = prefix.fault()
        if fault is None and prefix.block_tokens != self.layout.alignment_tokens:
            fault = f"its blocks have {self.layout.alignment_tokens} tokens"
        rest = offer.to_token - prefix.end_token
        if fault is None and (
            prefix.from_token != offer.from_token or not 0 <= rest < prefix.block_tokens
        ):
            fault = f"it has tokens [{offer.from_token}, {offer.to_token})"
        return fault

    def reads(self, offer: TransferOffer) -> bool:
        """Whether the engine's ranks could read the transfer as their own pages."""
        rank = offer.key.rank
        return (
            rank < self.layout.tp_size
            and self.layout.of_rank(rank).fingerprint() == offer.layout_fingerprint
        )

    def entry(self, offer: TransferOffer, extents: Iterable[Extent], slots: list[int]) -> Entry:
        """Of a whole transfer, whose bytes lie there."""
        kinds = {group.kind for group in self.layout.groups}
        # Inside a block, a window is handed over as the next token sees it, not the block's end.
        stands = offer.to_token == self.prefix.end_token or "sliding_window" not in kinds
        what = KeptPrefix(
            key=offer.key,
            layout=offer.layout_fingerprint,
            prefix=self.prefix,
            to_token=offer.to_token,
            total_bytes=offer.total_bytes,
            stands_at=self.prefix.end_token if stands else 0,
            needs_state=kinds != {"full_attention"},
        )
        return Entry(what, tuple(extents), slots, naming=self.naming)
