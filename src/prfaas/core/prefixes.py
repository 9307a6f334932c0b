"""What a stretch of cached KV is of: the tokens, and everything else that decides its bytes.

A prefix is named by a chain of digests, one for each whole block: each is a digest of the one
before it and of the block's tokens. The first link, the *root*, is a digest of what the tokens do
not tell: the model's weights, the adapter and the salt. So one name stands for a whole prefix, two
prompts share names exactly as far as they are alike, and nothing but the same prompt under the same
salt leads to a name. Only engines make names, each from its own requests; who else handles them
compares them.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence

import msgspec

from prfaas.core.handoff import Tokens

DIGEST_BYTES = 16
KEY_BYTES = 16
TOKEN_BYTES = 4
MOST_TOKENS = 512 * 1024
"""Of a stretch. None longer is kept."""
MOST_BLOCKS = 96 * 1024
"""Of a stretch: as many, with as many tokens, fit a frame of the engine's socket (4 MiB) and, as
news of an agent's cache, the lines that gateways read (8 MiB), who would else know nothing of that
cache. A million tokens in blocks of 16 are 64K."""
MOST_BLOCK_TOKENS = 1 << 16
"""Engines' blocks have some thousands at most. A size costs 16 bytes a token (`index.keys`), and
the time that it takes to make them."""


class _Blocks(msgspec.Struct, frozen=True):
    """Whole blocks [from_token, end_token) of a prompt, behind a prefix with the name ``parent``.
    ``digests``: the names after each of the blocks."""

    block_tokens: int
    from_token: Tokens
    parent: bytes
    digests: tuple[bytes, ...]

    @property
    def end_token(self) -> int:
        """Where the last whole block ends."""
        return self.from_token + len(self.digests) * self.block_tokens

    def fault(self) -> str | None:
        """What is wrong with it, or None: it may come from elsewhere."""
        size, count = self.block_tokens, len(self.digests)
        if size <= 0 or self.from_token < 0 or self.from_token % size or not count:
            return "a cached prefix has whole blocks"
        if size > MOST_BLOCK_TOKENS:
            return f"a cached prefix has blocks of at most {MOST_BLOCK_TOKENS} tokens"
        if count * size > MOST_TOKENS:
            return f"a cached prefix has at most {MOST_TOKENS} tokens"
        if count > MOST_BLOCKS:
            return f"a cached prefix has at most {MOST_BLOCKS} blocks"
        if any(len(digest) != DIGEST_BYTES for digest in (self.parent, *self.digests)):
            return f"names of prefixes have {DIGEST_BYTES} bytes"
        if len(set(self.digests)) != count:
            return "a cached prefix has a name of its own after each block"
        return None


class PromptPrefix(_Blocks, frozen=True):
    """Whole blocks of a prompt as its engine knows them. It never leaves the machine.

    ``tokens``: their ids, uint32, little-endian. ``salt`` and ``adapter`` are the request's; they
    are in the names already.
    """

    tokens: bytes = b""
    salt: str | None = None
    adapter: str | None = None

    def fault(self) -> str | None:
        """What is wrong with it, or None."""
        fault = super().fault()
        if fault is None and len(self.tokens) != (self.end_token - self.from_token) * TOKEN_BYTES:
            return "a cached prefix names each of its tokens"
        return fault


class Prefix(_Blocks, frozen=True):
    """The same as others are told of it, who cannot make out a prompt: names are secret ones.

    ``keys``: of each block (`index.keys`), first the low words of all, then the high ones, uint64;
    nothing where it is not known what is before them.
    """

    keys: bytes = b""

    def digest(self) -> str:
        """Of all of it, in hexadecimal: who has this is told of no other prefix."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"prfaas-copy")
        digest.update(msgspec.msgpack.encode(self))
        return digest.hexdigest()

    def fault(self) -> str | None:
        """What is wrong with it, or None."""
        fault = super().fault()
        if fault is None and len(self.keys) not in (0, len(self.digests) * KEY_BYTES):
            return f"keys of blocks have {KEY_BYTES} bytes"
        return fault


def root_digest(weights: str, *, adapter: str | None, salt: str | None) -> bytes:
    """The name of the empty prefix. ``weights`` and ``adapter`` identify what they are, not merely
    what they are called."""
    head = msgspec.msgpack.encode((weights, adapter, salt))
    return hashlib.blake2b(head, digest_size=DIGEST_BYTES, person=b"prfaas-prefix").digest()


def chain(root: bytes, token_ids: Sequence[int], block_tokens: int) -> tuple[bytes, ...]:
    """Names after each whole block of ``token_ids``. Raises OverflowError for what is no uint32."""
    packed = memoryview(pack_tokens(token_ids))
    size = block_tokens * TOKEN_BYTES
    found: list[bytes] = []
    name = root
    for start in range(0, len(packed) - size + 1, size):
        digest = hashlib.blake2b(name, digest_size=DIGEST_BYTES)
        digest.update(packed[start : start + size])
        name = digest.digest()
        found.append(name)
    return tuple(found)


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """As uint32, little-endian. Raises OverflowError for what is no uint32."""
    tokens = array("I", token_ids)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tobytes()


def stretch(
    names: Sequence[bytes],
    root: bytes,
    token_ids: Sequence[int],
    *,
    block_tokens: int,
    from_token: int,
    to_token: int,
    salt: str | None,
    adapter: str | None,
) -> PromptPrefix | None:
    """Blocks [from_token, to_token) of a prompt with the chain ``names``; None where that is no
    whole block, or does not begin with one, or is too long, or its blocks are."""
    if block_tokens > MOST_BLOCK_TOKENS:
        return None
    first, end = from_token // block_tokens, min(to_token // block_tokens, len(names))
    if from_token % block_tokens or first >= end:
        return None
    if (end - first) * block_tokens > MOST_TOKENS or end - first > MOST_BLOCKS:
        return None
    return PromptPrefix(
        block_tokens=block_tokens,
        from_token=from_token,
        parent=names[first - 1] if first else root,
        digests=tuple(names[first:end]),
        tokens=pack_tokens(token_ids[from_token : end * block_tokens]),
        salt=salt,
        adapter=adapter,
    )
