"""Keys of prefix blocks: 128-bit hashes of token ids, the same for prompts and for events.

Theory of operation. A key names a whole prefix, as an engine's own block hash does, but no engine's
hash function needs to be known for it. It is a sum over the prefix's blocks: of each block a
multilinear hash (its tokens times secret random numbers, plus a digest of its extra keys), mixed
with its position. All sums of a prompt are computed by a few array operations. Two independent
64-bit lanes make 128 bits.

What is told is not the sum but AES of it, a block of the cipher each: sums of known prompts would
give the secret numbers away, and with them everybody's prompts could be guessed at. A universal
hash under a pseudorandom permutation is a pseudorandom function: whoever has not the seed sees of
two prefixes whether they are equal, and no more (Wegman and Carter, 1981; Shoup, 1996). Who has
it finds the sum again, so that a prefix goes on from any block whose key is known.

The numbers are secret (`BlockHasher`), so nobody can make up two prompts with one key. Keys of
one pair in 10^20 are equal by chance: that costs a prompt that is computed again, never a wrong
answer.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

import msgspec
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_MASK = (1 << 64) - 1
_TWO = Struct("<2Q")
_STEP = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
"""Odd numbers with mixed bits: a block's place, one for each lane."""
_STEPS = np.array([_STEP], np.uint64).T
_MOST_FACTORS = 1 << 21
"""Kept: a block size has as many as it has tokens, twice 8 bytes each."""
_MOST_EXTRAS, _MOST_EXTRA_BYTES = 10_000, 1 << 22
"""Whose digests are kept: salts may be many, and an engine's words as long as it likes."""
_FIRST_CHUNK, _GROWTH = 16, 4
"""Blocks: most prompts are known in part, so keys are computed as far as somebody may need them."""


class Keys(NamedTuple):
    """The keys of consecutive blocks of a prefix, in order."""

    low: U64
    high: U64


class Place(NamedTuple):
    """Where a prefix ends: its key, and how many blocks it has."""

    low: int
    high: int
    depth: int


class BlockHasher:
    """Computes keys. ``seed``: what must be secret from those who choose prompts; equal seeds give
    equal keys."""

    def __init__(self, seed: bytes = b"") -> None:
        self.rekey(seed)

    def rekey(self, seed: bytes) -> None:
        """Make other keys from now on: places of before are no places of these."""
        self._seed = seed
        secret = hashlib.blake2b(seed, digest_size=32, person=b"prfaas-seal").digest()
        # Each block is sealed by itself, as it must be: equal prefixes have equal keys.
        cipher = Cipher(AES256(secret), ECB())
        self._seal, self._open = cipher.encryptor().update, cipher.decryptor().update
        self._factors: dict[int, tuple[U64, U64, Place]] = {}
        self._extras: dict[bytes, tuple[int, int]] = {}
        self._extra_bytes = 0

    def root(self, block_tokens: int) -> Place:
        """The place before the first block, another one for each block size."""
        return self._of_size(block_tokens)[2]

    def extend(
        self,
        place: Place,
        tokens: NDArray[np.uint32],
        block_tokens: int,
        extras: Sequence[bytes] = (),
    ) -> Keys:
        """Keys of the blocks after ``place``.

        Args:
            tokens: of whole blocks.
            extras: `encode_extra` of what the engine mixes into each block beside its tokens, for
                as many blocks as have some.
        """
        first, second, _ = self._of_size(block_tokens)
        wide = tokens.astype(np.uint64).reshape(-1, block_tokens)
        count = len(wide)
        places = np.arange(place.depth + 1, place.depth + 1 + count, dtype=np.uint64)
        lanes = np.empty((2, count), np.uint64)
        for lane, factors in zip(lanes, (first, second), strict=True):
            np.matmul(wide, factors, out=lane)
        for number, extra in enumerate(extras):
            if extra:
                lanes[:, number] += np.array(self._extra(extra), np.uint64)
        lanes += places * _STEPS
        _mix(lanes)
        if count:
            lanes[:, 0] += np.array(self._sums(place), np.uint64)
        np.cumsum(lanes, axis=1, out=lanes)
        sealed = np.frombuffer(self._seal(lanes.astype("<u8").T.tobytes()), "<u8")
        return Keys(*sealed.reshape(count, 2).T.astype(np.uint64, order="C"))

    def extend_one(self, place: Place, token_ids: Sequence[int], extra: bytes) -> Place:
        """The same for one block, which costs less so."""
        first, second, _ = self._of_size(len(token_ids))
        wide = np.array(token_ids, np.uint64)
        sums = (int(wide @ first), int(wide @ second))
        more = self._extra(extra) if extra else (0, 0)
        depth = place.depth + 1
        low, high = (
            (start + _mix_one((own + also + depth * step) & _MASK)) & _MASK
            for own, also, step, start in zip(sums, more, _STEP, self._sums(place), strict=True)
        )
        low, high = _TWO.unpack(self._seal(_TWO.pack(low, high)))
        return Place(low, high, depth)

    def _sums(self, place: Place) -> tuple[int, int]:
        """Up to a place whose key is known."""
        low, high = _TWO.unpack(self._open(_TWO.pack(place.low, place.high)))
        return low, high

    def _of_size(self, block_tokens: int) -> tuple[U64, U64, Place]:
        found = self._factors.get(block_tokens)
        if found is None:
            if sum(self._factors) > _MOST_FACTORS:
                self._factors.clear()
            material = hashlib.shake_256(self._seed + b"/%d" % block_tokens)
            numbers = np.frombuffer(material.digest(16 * (block_tokens + 1)), np.uint64)
            factors = numbers[2:].reshape(2, block_tokens) | np.uint64(1)
            root = Place(int(numbers[0]), int(numbers[1]), 0)
            found = self._factors[block_tokens] = factors[0].copy(), factors[1].copy(), root
        return found

    def _extra(self, extra: bytes) -> tuple[int, int]:
        found = self._extras.get(extra)
        if found is None:
            if len(self._extras) > _MOST_EXTRAS or self._extra_bytes > _MOST_EXTRA_BYTES:
                self._extras.clear()
                self._extra_bytes = 0
            self._extra_bytes += len(extra)
            key = hashlib.blake2b(self._seed, digest_size=32).digest()
            digest = hashlib.blake2b(extra, digest_size=16, key=key).digest()
            found = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
            self._extras[extra] = found
        return found


def encode_extra(extra: Sequence[Any] | None) -> bytes:
    """Extra keys (LoRA adapter, cache salt) as bytes; empty for none and for an empty list."""
    return msgspec.msgpack.encode(extra) if extra else b""


class Tokens(ABC):
    """A prompt of which nobody may need all numbers."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def first(self, count: int) -> NDArray[np.uint32]:
        """The first ``count`` token ids. Raises OverflowError for what is no uint32."""


class KnownTokens(Tokens):
    """Token ids that are at hand. Raises OverflowError for what is no uint32."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._numbers = np.frombuffer(array("I", token_ids), np.uint32)

    def __len__(self) -> int:
        return len(self._numbers)

    def first(self, count: int) -> NDArray[np.uint32]:
        return self._numbers[:count]


class PromptKeys:
    """The keys of one prompt's blocks.

    Args:
        token_ids: the whole prompt. Raises OverflowError for what is no uint32.
        salt: the request's ``cache_salt``; vLLM mixes it into the first block.
        adapter: name of the LoRA adapter; vLLM mixes it into every block.
    """

    def __init__(
        self,
        token_ids: Sequence[int] | Tokens,
        *,
        salt: str | None = None,
        adapter: str | None = None,
    ) -> None:
        self._tokens = token_ids if isinstance(token_ids, Tokens) else KnownTokens(token_ids)
        named = [] if adapter is None else [adapter]
        self._every_block = encode_extra(named)
        self._first_block = encode_extra([*named, salt] if salt is not None else named)

    def look_through(self) -> None:
        """At all ids, also those of which nobody has needed a key. Raises OverflowError."""
        self._tokens.first(len(self._tokens))

    def chunks(self, hasher: BlockHasher, block_tokens: int) -> Iterator[Keys]:
        """Keys of the whole blocks before the last token, first to last, a few at first."""
        blocks = max(0, len(self._tokens) - 1) // block_tokens
        if not blocks:
            return  # Nor is anything made for a size that somebody has told of.
        place, count = hasher.root(block_tokens), _FIRST_CHUNK
        while place.depth < blocks:
            end = min(blocks, place.depth + count)
            tokens = self._tokens.first(end * block_tokens)[place.depth * block_tokens :]
            keys = hasher.extend(place, tokens, block_tokens, self._extras(place.depth, end))
            yield keys
            place, count = Place(int(keys.low[-1]), int(keys.high[-1]), end), count * _GROWTH

    def _extras(self, start: int, end: int) -> list[bytes]:
        if self._every_block:
            every = [self._every_block] * (end - start)
            return every if start else [self._first_block, *every[1:]]
        return [] if start or not self._first_block else [self._first_block]


def _mix(values: U64) -> U64:
    """A bijection under which every bit depends on every other (the finaliser of splitmix64)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _mix_one(value: int) -> int:
    """The same for a number."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
