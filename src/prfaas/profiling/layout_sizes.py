"""S_kv and the room for it, from what engines say of their KV cache."""

from __future__ import annotations

from prfaas.core.layout import KvLayout
from prfaas.models.kv_size import KvSize


def kv_size_of_layout(layout: KvLayout) -> KvSize:
    """S_kv of whole blocks, over all ranks: what grows with the prompt, and what does not.

    Sliding windows count as full, so it is exact for prompts of at least their length.
    """
    step = layout.alignment_tokens
    windows = [group.window_tokens or 0 for group in layout.groups]
    far = (max(windows, default=0) // step + 2) * step
    per_token = (layout.handoff_bytes(0, 2 * far) - layout.handoff_bytes(0, far)) / far
    return KvSize(layout.handoff_bytes(0, far) - per_token * far, per_token)


def kv_tokens_of(layout: KvLayout, blocks: int, block_tokens: int) -> int | None:
    """Tokens that so many blocks of vLLM's pool hold. None where groups share the pool: what a
    prompt takes of it is then no plain multiple of its length."""
    return blocks * block_tokens if len(layout.groups) == 1 else None
