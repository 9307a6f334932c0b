"""Cached prefixes as they may leave a machine: under secret names, with keys for the index.

Engines describe to their agent what they cache, with its tokens and salt. Whoever has the
deployment's cache key (agents, gateways) finds a prompt in what is made of it here; nobody makes
out a prompt. Without a key, where the deployment speaks plaintext anyway, all of it is made
with one that everybody knows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from prfaas.core.errors import EngineError
from prfaas.core.prefixes import DIGEST_BYTES, Prefix, PromptPrefix
from prfaas.index.keyed_blocks import key_id
from prfaas.index.keys import BlockHasher, Keys, Place, Tokens, encode_extra

PLAINTEXT_KEY = b"no secret"
_MOST_PLACES = 1 << 17
"""Blocks behind which what comes next can be keyed, those where something went on last: some 30
MB."""


class KeyedPrefixes:
    """The cached prefixes of one agent. ``key``: the deployment's cache key."""

    def __init__(self, key: bytes) -> None:
        self.rekey(key)

    def rekey(self, key: bytes) -> None:
        """Make names and keys with this one from now on, and forget what was learned under the
        other."""
        self.key_id = key_id(key)
        self._hasher = BlockHasher(key)
        self._key = hashlib.blake2b(key, digest_size=32, person=b"prfaas-prefixes").digest()
        self._places: OrderedDict[bytes, Place] = OrderedDict()

    def name(self, digest: bytes) -> bytes:
        """What a prefix is called that engines call so: theirs could be guessed. Raises EngineError
        for what is no name."""
        if len(digest) != DIGEST_BYTES:
            raise EngineError(f"names of prefixes have {DIGEST_BYTES} bytes")
        return hashlib.blake2b(digest, digest_size=DIGEST_BYTES, key=self._key).digest()

    def keyed(self, told: PromptPrefix) -> Prefix:
        """What may be said of it. Raises EngineError for one that cannot be."""
        fault = told.fault()
        if fault is not None:
            raise EngineError(fault)
        parent = self.name(told.parent)
        names = tuple(self.name(digest) for digest in told.digests)
        size = told.block_tokens
        place = self._behind(parent) if told.from_token else self._hasher.root(size)
        if place is None or place.depth * size != told.from_token:
            return Prefix(size, told.from_token, parent, names)
        tokens = np.frombuffer(told.tokens, "<u4").astype(np.uint32)
        keys = self._hasher.extend(
            place, tokens, size, _extras(told.salt, told.adapter, place.depth, len(names))
        )
        made = Prefix(size, told.from_token, parent, names, _packed(keys))
        self.learn(made)
        return made

    def _behind(self, name: bytes) -> Place | None:
        """Where a system prompt ends, everything goes on, and nobody tells of it again."""
        place = self._places.get(name)
        if place is not None:
            self._places.move_to_end(name)
        return place

    def learn(self, prefix: Prefix) -> None:
        """What another agent has told: a prompt may go on from there."""
        keys = keys_of(prefix)
        if keys is None:
            return
        depth = prefix.from_token // prefix.block_tokens
        words = zip(prefix.digests, keys.low.tolist(), keys.high.tolist(), strict=True)
        for name, low, high in words:
            depth += 1
            self._places[name] = Place(low, high, depth)
            self._places.move_to_end(name)
        while len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)


def keys_of(prefix: Prefix) -> Keys | None:
    """Of its blocks, where they are known."""
    words = np.frombuffer(prefix.keys, "<u8").astype(np.uint64)
    count = len(prefix.digests)
    return Keys(words[:count], words[count:]) if len(words) == 2 * count else None


def keys_of_prompt(
    hasher: BlockHasher,
    prompt: Tokens,
    block_tokens: int,
    *,
    salt: str | None,
    adapter: str | None,
) -> Keys:
    """Of all whole blocks of a prompt."""
    count = len(prompt) // block_tokens
    if not count:
        return Keys(np.empty(0, np.uint64), np.empty(0, np.uint64))
    tokens = prompt.first(count * block_tokens)
    extras = _extras(salt, adapter, 0, count)
    return hasher.extend(hasher.root(block_tokens), tokens, block_tokens, extras)


def _extras(salt: str | None, adapter: str | None, first: int, count: int) -> list[bytes]:
    """As vLLM mixes them in: the adapter into every block, the salt into a prompt's first."""
    named = [] if adapter is None else [adapter]
    every = [encode_extra(named)] * count
    if salt is not None and not first and count:
        every[0] = encode_extra([*named, salt])
    return every


def _packed(keys: Keys) -> bytes:
    return np.array(keys, "<u8").tobytes()
