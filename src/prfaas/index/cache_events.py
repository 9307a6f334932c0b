"""What is told of an engine's cache: by its own events, and elsewhere without a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from prfaas.core.prefixes import MOST_BLOCK_TOKENS
from prfaas.index.words import BlockHash

GroupIndex = Annotated[int, msgspec.Meta(ge=0, lt=128)]
"""vLLM's models have some tens of KV groups. Each costs every set of holders a bit an engine."""
BlockTokens = Annotated[int, msgspec.Meta(ge=1, le=MOST_BLOCK_TOKENS)]
WindowTokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]
Kind = Annotated[str, msgspec.Meta(max_length=256)]


class BlocksStored(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks of one KV group that an engine now caches, as its event says.

    ``extra_keys`` has one entry per hash (or is None); ``window_tokens`` only for sliding windows.
    """

    group: int
    kind: str
    block_tokens: int
    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    token_ids: Sequence[int]
    extra_keys: Sequence[Any] | None = None
    window_tokens: int | None = None


class BlocksKeyed(msgspec.Struct, frozen=True, kw_only=True, tag="keyed"):
    """The same, told where the events themselves must not go: ``names`` stand for hashes (uint64).

    ``keys``: of a full-attention group the blocks' keys, first the low words of all, then the high
    ones; of other groups nothing. ``parent``: a name. Raises ValueError where these have not the
    bytes that they must.
    """

    group: GroupIndex
    kind: Kind
    block_tokens: BlockTokens
    names: bytes
    parent: Annotated[int, msgspec.Meta(ge=0)] | None = None
    keys: bytes = b""
    window_tokens: WindowTokens | None = None

    def __post_init__(self) -> None:
        _are_whole(self.names)
        if len(self.keys) not in (0, 2 * len(self.names)):
            raise ValueError("keys of blocks have 16 bytes")


class BlocksGone(msgspec.Struct, frozen=True, tag="gone"):
    """Blocks that one group (None: every group) holds no more, by their names (uint64). Raises
    ValueError where these have not 8 bytes each."""

    group: GroupIndex | None
    names: bytes

    def __post_init__(self) -> None:
        _are_whole(self.names)


KeyedEvent = BlocksKeyed | BlocksGone


def _are_whole(names: bytes) -> None:
    if len(names) % 8:
        raise ValueError("names of blocks have 8 bytes")
