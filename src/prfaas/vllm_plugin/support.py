"""Settings of vLLM under which a hand-off cannot be exact: refused at start-up, by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prfaas.core.errors import EngineError
from prfaas.vllm_plugin.geometry import group_kinds

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


def check_supported(config: VllmConfig, kv_cache: KVCacheConfig) -> None:
    """Raise EngineError that names the option and says what to do."""
    _check_groups(kv_cache)
    _check_parallelism(config)
    _check_transfer(config)
    if any(kind == "recurrent" for kind, _ in group_kinds(kv_cache)):
        _check_recurrent(config, kv_cache)


def answers_warning(config: VllmConfig, kv_cache: KVCacheConfig) -> str | None:
    """Why answers are not kept as far as they could be; None where they are."""
    if not config.cache_config.enable_prefix_caching:
        return "no answer is kept: vLLM's prefix cache, from which they are taken, is off"
    sparse = any(kind != "full_attention" for kind, _ in group_kinds(kv_cache))
    if not sparse or config.cache_config.prefix_cache_retention_interval != 0:
        return None
    return (
        "of answers only the prompt is kept: vLLM forgets the states and windows at the blocks' "
        "ends that they cross; start it with --prefix-cache-retention-interval None"
    )


def _check_groups(kv_cache: KVCacheConfig) -> None:
    if not kv_cache.kv_cache_groups:
        raise EngineError("this model has no KV cache: there is nothing to hand over")
    if len(kv_cache.transfer_group_ids) != len(kv_cache.kv_cache_groups):
        raise EngineError("host-resident KV cache groups (HiSparse) are not supported")
    sizes = [block_tokens for _, block_tokens in group_kinds(kv_cache)]
    if math.lcm(*sizes) != max(sizes):
        raise EngineError(
            f"the KV groups have blocks of {sizes} tokens; the largest must be a multiple of the "
            "others: choose another --block-size"
        )


def _check_parallelism(config: VllmConfig) -> None:
    parallel = config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        raise EngineError(
            "pipeline parallelism is not supported: hand-offs are told apart by tensor-parallel "
            "rank, which repeats in every stage. Use tensor or data parallelism"
        )
    # Dense models' ranks are told that they are alone; which of several they are, they know.
    several = parallel.data_parallel_size > 1 or parallel.data_parallel_index > 0
    if several and not parallel.data_parallel_external_lb:
        raise EngineError(
            "data-parallel ranks behind one address are not supported: which rank's cache holds a "
            "prompt could not be told. Start one engine for each rank, with an address and a name "
            "of its own: of a dense model without --data-parallel-size, of a mixture of experts "
            "with --data-parallel-rank"
        )
    if parallel.decode_context_parallel_size > 1:
        raise EngineError("decode context parallelism is not supported")
    if parallel.prefill_context_parallel_size > 1:
        raise EngineError("prefill context parallelism is not supported")


def _check_transfer(config: VllmConfig) -> None:
    transfer = config.kv_transfer_config
    if transfer.is_kv_consumer and transfer.kv_load_failure_policy != "recompute":
        raise EngineError(
            "a load that fails would fail its request: start vLLM with "
            '"kv_load_failure_policy": "recompute" in --kv-transfer-config'
        )
    if config.model_config.enable_sleep_mode:
        raise EngineError(
            "the connector's copies do not survive that the cache is unmapped: leave out "
            "--enable-sleep-mode"
        )
    if transfer.is_kv_producer and config.parallel_config.use_ubatching:
        # A layer's hook is then called once per micro-batch, before the others' KV is written.
        raise EngineError(
            "an engine that exports cannot run micro-batches: leave out --enable-dbo and "
            '--ubatch-size, or start it with "kv_role": "kv_consumer"'
        )


def _check_recurrent(config: VllmConfig, kv_cache: KVCacheConfig) -> None:
    if config.cache_config.mamba_cache_mode != "align":
        raise EngineError(
            "recurrent states are only kept at block boundaries with prefix caching on: "
            "start vLLM with --enable-prefix-caching"
        )
    if config.speculative_config is not None:
        # The convolutions' states are as much wider as tokens are drafted: a prefill engine that
        # drafts none, or fewer, holds other pages.
        raise EngineError(
            f"speculative decoding ({config.speculative_config.method}) is not supported with "
            "recurrent layers: leave out --speculative-config"
        )
    block_tokens = max(size for _, size in group_kinds(kv_cache))
    if kv_cache.cache_hit_alignment_tokens not in (None, block_tokens):
        # States are then kept inside a block too, instead of at the boundary.
        raise EngineError(
            f"recurrent states are kept every {kv_cache.cache_hit_alignment_tokens} tokens, "
            f"inside blocks of {block_tokens}: leave out --prefix-match-unit"
        )
