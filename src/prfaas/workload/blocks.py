"""How many tokens a block id of a trace stands for, told from the ids themselves.

A prompt of N tokens has floor(N/b) or ceil(N/b) ids, by whether the trace counts a last block that
is not full. Each prompt therefore bounds the block size b, and a few thousand leave one. The size
that the schema publishes is taken where it fits; where it does not, what fits is taken if it is the
only one, and asked for if it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

from prfaas.core.errors import ConfigError

MOONCAKE_BLOCK_TOKENS = 512
"""Tokens of one block of Mooncake's ``hash_ids``."""


def block_size(
    prompts: Sequence[int], ids: Sequence[Sequence[int]], *, told: int | None = None
) -> int:
    """Tokens per block of a trace's ids.

    Args:
        prompts: tokens of each prompt, at least 1.
        ids: block ids of each prompt; prompts without any say nothing.
        told: the size, as somebody said who knows.
    Raises ConfigError where no size fits, the told one does not, or several do.
    """
    known = [len(blocks) > 0 for blocks in ids]
    if not any(known):
        return told or MOONCAKE_BLOCK_TOKENS
    wanted = told or MOONCAKE_BLOCK_TOKENS
    least, most = 1, max(wanted, *prompts)
    for prompt, blocks in zip(compress(prompts, known), compress(ids, known), strict=True):
        count = len(blocks)
        least = max(least, prompt // (count + 1) + 1)
        if count > 1:
            most = min(most, -(-prompt // (count - 1)) - 1)
    if least <= wanted <= most:
        return wanted
    if least > most:
        raise ConfigError("hash_ids: their numbers fit no block size; are they one per block?")
    if told is not None:
        fits = f"{least}" if least == most else f"{least} to {most}"
        raise ConfigError(f"hash_ids: blocks of {told} tokens do not fit; {fits} would")
    if least < most:
        raise ConfigError(
            f"hash_ids: a block may have {least} to {most} tokens; say how many with block_tokens "
            "(--block-tokens)"
        )
    return least
