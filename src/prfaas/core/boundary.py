"""Where hand-offs end."""

from __future__ import annotations


def aligned_boundary(prompt_tokens: int, block_tokens: int) -> int:
    """T = floor((N-1)/block)*block: where the hand-off of an N-token prompt ends, 0 or more.

    The last token is never part of it: the decode engine computes at least that one.
    """
    return max(0, (prompt_tokens - 1) // block_tokens * block_tokens)
