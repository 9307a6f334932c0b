"""What a gateway asks of agents so that one's cached prefix comes to lie at another too, typed.

First the receiver is told what will come (``PUT /cache/copies/{id}``), then the sender to send it
(``POST /cache/copies/{id}``). Bodies are MessagePack: a prefix has four bytes a token.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from prfaas.core.handoff import DeadlineS, Priority, TransferId
from prfaas.core.prefixes import Prefix

MOST_COPY_BYTES = 4 * 1024 * 1024
"""Of a body; the longest prefix that is cached takes some 2.5 MiB in blocks of 16 tokens."""

YIELDS = 1000
"""The priority of a copy that nobody waits for: whatever else is sent goes first."""


class CopyCached(msgspec.Struct, frozen=True, kw_only=True):
    """Send what is cached of transfer ``transfer_id`` to agent ``destination``. ``priority`` as in
    `link.api.TransferOffer`: a lower number goes first."""

    transfer_id: TransferId
    destination: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    deadline_s: DeadlineS
    priority: Priority = 0


class AwaitCopy(msgspec.Struct, frozen=True, kw_only=True):
    """Another agent will send what it has cached of this prefix."""

    prefix: Prefix
    deadline_s: DeadlineS
    key_id: str = ""
    """Of the cache key that made its names (`index.keyed_blocks.key_id`); empty: an earlier
    release, which does not say."""
