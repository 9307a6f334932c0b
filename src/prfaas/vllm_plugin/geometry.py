"""What vLLM's ``KVCacheConfig`` and registered tensors say about pages, as a `KvLayout`.

Everything is read from vLLM's own description (``v1/kv_cache_interface.py``), never from a
model's name. What cannot be moved whole and unchanged is refused here, at start-up, by name.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)

from prfaas.core.errors import EngineError
from prfaas.core.layout import GroupKind, KvGroup, KvLayout, LayerLayout

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


def check_supported(config: VllmConfig, kv_cache: KVCacheConfig) -> None:
    """Raise EngineError, naming the option, for settings under which a hand-off cannot be exact."""
    if not kv_cache.kv_cache_groups:
        raise EngineError("this model has no KV cache: there is nothing to hand over")
    if len(kv_cache.transfer_group_ids) != len(kv_cache.kv_cache_groups):
        raise EngineError("host-resident KV cache groups (HiSparse) are not supported")
    if config.parallel_config.pipeline_parallel_size > 1:
        raise EngineError("pipeline parallelism is not supported; use tensor parallelism")
    if config.parallel_config.decode_context_parallel_size > 1:
        raise EngineError("decode context parallelism is not supported")
    for number, group in enumerate(kv_cache.kv_cache_groups):
        spec = _one_spec(group.kv_cache_spec)
        _kind(spec, number)
        if isinstance(spec, MambaSpec):
            if config.cache_config.mamba_cache_mode != "align":
                raise EngineError(
                    "recurrent states are only kept at block boundaries with prefix caching on: "
                    "start vLLM with --enable-prefix-caching"
                )
            if spec.num_speculative_blocks:
                raise EngineError(
                    f"KV group {number} keeps speculative recurrent states; "
                    "speculative decoding is not supported with recurrent layers"
                )


def group_kinds(kv_cache: KVCacheConfig) -> tuple[tuple[GroupKind, int], ...]:
    """``(kind, block_tokens)`` of every group: all the scheduler side needs."""
    return tuple(
        (_kind(_one_spec(g.kv_cache_spec), n), g.kv_cache_spec.block_size)
        for n, g in enumerate(kv_cache.kv_cache_groups)
    )


def read_layout(
    config: VllmConfig,
    kv_cache: KVCacheConfig,
    pages: dict[str, torch.Tensor],
    caches: dict[str, torch.Tensor],
    *,
    tp_rank: int,
) -> KvLayout:
    """The layout of this rank.

    Args:
        pages: layer name to its page view ``[num_blocks, page_bytes]`` uint8 (`pages.page_view`).
        caches: layer name to the tensor vLLM registered.
    """
    groups = []
    for number, group in enumerate(kv_cache.kv_cache_groups):
        spec = _one_spec(group.kv_cache_spec)
        layers = tuple(_layer(name, pages[name], caches[name]) for name in group.layer_names)
        window = spec.sliding_window if isinstance(spec, SlidingWindowSpec) else None
        groups.append(
            KvGroup(
                kind=_kind(spec, number),
                block_tokens=group.kv_cache_spec.block_size,
                layers=layers,
                window_tokens=window,
            )
        )
    return KvLayout(
        model=model_identity(config),
        groups=tuple(groups),
        tp_rank=tp_rank,
        tp_size=config.parallel_config.tensor_parallel_size,
    )


def model_identity(config: VllmConfig) -> str:
    """Architecture name and a digest of the model's configuration and dtypes.

    Two engines with equal identities run the same computation; that they hold the same weights is
    for the operator to see to.
    """
    model = config.model_config
    facts: dict[str, Any] = model.hf_config.to_dict()
    for volatile in ("_name_or_path", "transformers_version", "torch_dtype", "dtype"):
        facts.pop(volatile, None)
    facts["prfaas"] = [
        str(model.dtype),
        str(config.cache_config.cache_dtype),
        str(model.quantization),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return f"{model.architectures[0]}:{digest[:16]}"


def _one_spec(spec: KVCacheSpec) -> KVCacheSpec:
    return spec.first_spec if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _kind(spec: KVCacheSpec, number: int) -> GroupKind:
    if isinstance(spec, MambaSpec):
        return "recurrent"
    if isinstance(spec, SlidingWindowSpec):
        return "sliding_window"
    if isinstance(spec, FullAttentionSpec):
        return "full_attention"
    raise EngineError(f"KV group {number} is of kind {type(spec).__name__}, which is not supported")


def _layer(name: str, pages: torch.Tensor, cache: torch.Tensor) -> LayerLayout:
    return LayerLayout(
        name=name,
        index=extract_layer_index(name),
        page_bytes=pages.shape[1],
        dtype=str(cache.dtype).removeprefix("torch."),
        shape=tuple(cache.shape[1:]),
        strides=tuple(cache.stride()[1:]),
    )
