"""Engines' hashes of blocks in 64 bits, which is all that they send by default."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BlockHash = int | bytes
_WORD = (1 << 64) - 1


def words_of(hashes: Sequence[BlockHash]) -> NDArray[np.uint64]:
    """As numbers."""
    try:
        return np.frombuffer(array("Q", hashes), np.uint64)  # type: ignore[type-var]
    except (TypeError, OverflowError):
        return np.array([word_of(block_hash) for block_hash in hashes], np.uint64)


def word_of(block_hash: BlockHash) -> int:
    """One of them."""
    if isinstance(block_hash, int):
        return block_hash & _WORD
    return int.from_bytes(hashlib.blake2b(block_hash, digest_size=8).digest(), "big")
