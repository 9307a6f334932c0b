"""Where in a prefill the recurrent states stand still long enough to be handed over.

A state moves with every token. vLLM keeps it where a step starts or ends, and some kernels
(Mamba-2, FlashKDA) also keep, from inside a prompt's last chunk, the state at the prompt's last
block boundary; vLLM's scheduler then does not end a chunk there. Which chunks do so is vLLM's own
rule, asked here and not written again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.model_executor.layers.mamba.checkpoint import compute_mamba_prefill_checkpoints

from prfaas.vllm_plugin.geometry import group_kinds, recurrent_specs

if TYPE_CHECKING:
    from vllm.v1.kv_cache_interface import KVCacheConfig, MambaSpec


class RecurrentStates:
    """When the states of one engine's recurrent layers stand still."""

    def __init__(self, kv_cache: KVCacheConfig) -> None:
        self._specs = recurrent_specs(kv_cache)
        largest = max(block_tokens for _, block_tokens in group_kinds(kv_cache))
        self._hash_block = kv_cache.hash_block_size or largest
        self._hit_alignment = kv_cache.cache_hit_alignment_tokens or largest

    def stand_at(self, boundary: int, *, computed: int, end: int, prompt_tokens: int) -> bool:
        """Whether a step over tokens [computed, end) leaves every recurrent layer's state at
        ``boundary`` in the block that ends there. True for a model without recurrent layers."""
        if boundary in (computed, end) or not self._specs:
            return True
        # Space for a checkpoint is only kept in the chunk that completes the prompt.
        return end >= prompt_tokens and all(
            self._checkpoint(spec, computed, end) == boundary for spec in self._specs
        )

    def _checkpoint(self, spec: MambaSpec, computed: int, end: int) -> int | None:
        """The token at which the kernel keeps a state inside the chunk, if it does."""
        if spec.num_prefill_checkpoint_blocks == 0:
            return None
        (offset,), (column,) = compute_mamba_prefill_checkpoints(
            [end],
            [end - computed],
            hash_block_size=self._hash_block,
            mamba_block_size=spec.block_size,
            checkpoint_alignment=spec.prefill_checkpoint_alignment,
            drop_eagle_block=False,
            cache_hit_alignment_tokens=self._hit_alignment,
        )
        at, block_end = computed + offset, (column + 1) * spec.block_size
        return at if offset and at == block_end else None
