"""Keys of prefix blocks: chained digests of token ids, the same for prompts and for events.

A key names a whole prefix, as an engine's own block hash does, but no engine's hash function needs
to be known for it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

ROOT = b"\0" * 16
"""Stands for the key before the first block."""
_NO_EXTRA = msgspec.msgpack.encode(None)


def block_key(parent: bytes, tokens: array[int], extra: bytes) -> bytes:
    """The 16-byte key of a block that holds ``tokens`` and follows ``parent``.

    Args:
        extra: `encode_extra` of what the engine mixes into the block beside its tokens.
    """
    digest = hashlib.blake2b(parent, digest_size=16)
    digest.update(extra)
    digest.update(tokens)
    return digest.digest()


def encode_extra(extra: Sequence[Any] | None) -> bytes:
    """Extra keys (LoRA adapter, cache salt) as bytes; none and an empty list are the same."""
    return msgspec.msgpack.encode(extra) if extra else _NO_EXTRA


class PromptKeys:
    """The keys of one prompt's blocks, computed once per block size and used for all engines.

    Args:
        token_ids: the whole prompt.
        salt: the request's ``cache_salt``; vLLM mixes it into the first block.
        adapter: name of the LoRA adapter; vLLM mixes it into every block.
    """

    def __init__(
        self, token_ids: Sequence[int], *, salt: str | None = None, adapter: str | None = None
    ) -> None:
        self._tokens = array("I", token_ids)
        named = [] if adapter is None else [adapter]
        self._every_block = encode_extra(named)
        self._first_block = encode_extra([*named, salt] if salt is not None else named)
        self._by_block_size: dict[int, list[bytes]] = {}

    def for_block_size(self, block_tokens: int) -> list[bytes]:
        """Keys of the whole blocks before the last token, first to last."""
        keys = self._by_block_size.get(block_tokens)
        if keys is None:
            keys = self._by_block_size[block_tokens] = list(self._chain(block_tokens))
        return keys

    def _chain(self, block_tokens: int) -> Iterator[bytes]:
        key, extra = ROOT, self._first_block
        for start in range(0, len(self._tokens) - block_tokens, block_tokens):
            key = block_key(key, self._tokens[start : start + block_tokens], extra)
            extra = self._every_block
            yield key
