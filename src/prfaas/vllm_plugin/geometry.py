"""What vLLM's ``KVCacheConfig`` and registered tensors say about pages, as a `KvLayout`.

Everything is read from vLLM's own description (``v1/kv_cache_interface.py``), never from a
model's name.
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
from prfaas.vllm_plugin.interior import (
    Interior,
    dtype_name,
    one_number_of_kv_heads,
    read_interior,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig


def group_kinds(kv_cache: KVCacheConfig) -> tuple[tuple[GroupKind, int], ...]:
    """``(kind, block_tokens)`` of every group. Raises EngineError for a kind we cannot move."""
    return tuple(
        (_kind(_one_spec(g.kv_cache_spec), n), g.kv_cache_spec.block_size)
        for n, g in enumerate(kv_cache.kv_cache_groups)
    )


def bare_groups(kv_cache: KVCacheConfig) -> tuple[KvGroup, ...]:
    """The groups without their layers: what `core.layout.block_range` needs."""
    return tuple(
        KvGroup(
            kind=kind,
            block_tokens=block_tokens,
            layers=(),
            window_tokens=_window(_one_spec(group.kv_cache_spec)),
        )
        for (kind, block_tokens), group in zip(
            group_kinds(kv_cache), kv_cache.kv_cache_groups, strict=True
        )
    )


def recurrent_specs(kv_cache: KVCacheConfig) -> list[MambaSpec]:
    """One spec of each recurrent group."""
    specs = [_one_spec(group.kv_cache_spec) for group in kv_cache.kv_cache_groups]
    return [spec for spec in specs if isinstance(spec, MambaSpec)]


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
    modules = config.compilation_config.static_forward_context
    tp_size = config.parallel_config.tensor_parallel_size
    model = config.model_config
    kv_heads = one_number_of_kv_heads(
        model.hf_text_config.to_dict(), model.get_total_num_kv_heads()
    )
    groups = []
    for number, group in enumerate(kv_cache.kv_cache_groups):
        spec = _one_spec(group.kv_cache_spec)
        layers = tuple(
            _layer(
                name,
                pages[name],
                caches[name],
                read_interior(
                    _spec_of(group.kv_cache_spec, name),
                    caches[name],
                    modules.get(name),
                    num_blocks=kv_cache.num_blocks,
                    tp_size=tp_size,
                    kv_heads=kv_heads,
                ),
            )
            for name in group.layer_names
        )
        groups.append(
            KvGroup(
                kind=_kind(spec, number),
                block_tokens=group.kv_cache_spec.block_size,
                layers=layers,
                window_tokens=_window(spec),
            )
        )
    return KvLayout(
        model=model_identity(config),
        groups=tuple(groups),
        tp_rank=tp_rank,
        tp_size=tp_size,
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
    kept_as = str(config.cache_config.cache_dtype)
    one_name = {dtype_name(model.dtype): "auto", "fp8_e4m3": "fp8"}
    facts["prfaas"] = [str(model.dtype), one_name.get(kept_as, kept_as), str(model.quantization)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    return f"{model.architectures[0]}:{digest[:16]}"


def _one_spec(spec: KVCacheSpec) -> KVCacheSpec:
    return spec.first_spec if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _spec_of(spec: KVCacheSpec, layer_name: str) -> KVCacheSpec:
    return spec.kv_cache_specs[layer_name] if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def _kind(spec: KVCacheSpec, number: int) -> GroupKind:
    if isinstance(spec, MambaSpec):
        return "recurrent"
    if isinstance(spec, SlidingWindowSpec):
        return "sliding_window"
    if isinstance(spec, FullAttentionSpec):
        return "full_attention"
    raise EngineError(f"KV group {number} is of kind {type(spec).__name__}, which is not supported")


def _window(spec: KVCacheSpec) -> int | None:
    """What vLLM keeps of a sliding window: drafting with several modules needs more than its own
    tokens."""
    if isinstance(spec, SlidingWindowSpec):
        return spec.sliding_window + spec.extra_retained_tokens
    return None


def _layer(name: str, pages: torch.Tensor, cache: torch.Tensor, interior: Interior) -> LayerLayout:
    return LayerLayout(
        name=name,
        index=extract_layer_index(name),
        page_bytes=pages.shape[1],
        dtype=dtype_name(cache.dtype),
        shape=tuple(cache.shape[1:]),
        strides=tuple(cache.stride()[1:]),
        interior=interior.words,
        pieces=interior.pieces,
    )
