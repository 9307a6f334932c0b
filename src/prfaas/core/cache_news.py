"""What an agent tells gateways of its cached prefixes, one JSON object a line: names and keys, no
token and no salt."""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.handoff import Epoch, Fingerprint, Number, Rank, Tokens, TransferId
from prfaas.core.prefixes import Prefix


class KeyedWith(msgspec.Struct, frozen=True, tag="keyed_with"):
    """Comes first: which key made the names and keys (`index.keyed_blocks.key_id`)."""

    key_id: Annotated[str, msgspec.Meta(max_length=64)]


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """One rank's part of a transfer is cached. ``layout``: fingerprint of the rank whose pages they
    are; ``stands_at``: the token from which an engine can go on, a block's end; None: from every
    block's end."""

    transfer_id: TransferId
    rank: Rank
    epoch: Epoch
    layout: Fingerprint
    prefix: Prefix
    stands_at: Tokens | None = None
    tier: Annotated[str, msgspec.Meta(max_length=16)] = "memory"
    """Where it lies: ``memory`` or ``disk``. What moves is told again."""


class Evicted(msgspec.Struct, frozen=True, tag="evicted"):
    """It is there no more."""

    transfer_id: TransferId
    rank: Rank
    epoch: Epoch


class Whole(msgspec.Struct, frozen=True, tag="whole"):
    """All that was there when the follower joined has been told."""


class Alive(msgspec.Struct, frozen=True, tag="alive", omit_defaults=True):
    """Nothing has happened for a while, or its disk was measured. ``disk_bytes_per_s``: what it
    reads from there, alone with it; None: not known."""

    disk_bytes_per_s: Number | None = None


CacheNews = KeyedWith | Stored | Evicted | Whole | Alive
