"""What vLLM's page holds inside: the `Piece` arrays that tensor parallelism divides.

vLLM views every attention layer's cache as ``[kernel blocks, heads, tokens, content]``, whatever
lies in memory: strides tell the order (FlashAttention's tokens before heads, FlashInfer's heads
before tokens). Recurrent layers' pages are their states one after the other. How a layer divides
its heads, groups and channels follows from vLLM's specs and layers (``model_executor/layers``:
`linear`, `mamba`); where that leaves a doubt, the page stays opaque and only equal engines exchange
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from vllm.model_executor.layers.mamba.mamba_utils import get_conv_state_layout
from vllm.v1.attention.backends.registry import MambaAttentionBackendEnum
from vllm.v1.kv_cache_interface import AttentionSpec, KVCacheSpec, KVQuantMode, MambaSpec

from prfaas.core.pieces import Piece, fill_page

_KEY_THEN_VALUE = frozenset({"FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION"})
"""Backends that keep a token's key and value of a head next to each other, as they are."""
_LATENTS = frozenset(
    {"CUTLASS_MLA", "FLASH_ATTN_MLA", "FLASHINFER_MLA", "FLASHMLA", "TOKENSPEED_MLA", "TRITON_MLA"}
)
"""Backends that keep a token's latent vector as it is."""
_KV_HEADS = re.compile(
    r"(kv|key_value|group).*head|head.*(kv|key_value|group)|query_group|attention_groups|kv_n"
)
"""Names under which configurations keep numbers of KV heads."""
_PLAIN = (KVQuantMode.NONE, KVQuantMode.FP8_PER_TENSOR)


class Interior(NamedTuple):
    """``words`` say what pieces and tensors do not tell; without ``pieces`` they say all of it."""

    words: str
    pieces: tuple[Piece, ...]


def read_interior(
    spec: KVCacheSpec,
    cache: torch.Tensor,
    module: object | None,
    *,
    num_blocks: int,
    tp_size: int,
    kv_heads: int | None,
) -> Interior:
    """Of one layer.

    Args:
        cache: what vLLM registered.
        module: the layer itself, as far as vLLM's forward context has it.
        kv_heads: see `one_number_of_kv_heads`.
    """
    if isinstance(spec, MambaSpec):
        return _recurrent(spec, module, tp_size)
    assert isinstance(spec, AttentionSpec)
    words, tokens_apart = _attention_words(spec, module)
    heads = _total_heads(spec, tp_size, kv_heads)
    if heads is None or cache.ndim != 4 or cache.stride(3) != 1:
        return Interior(words, ())
    piece = _attention_piece(cache, num_blocks, heads, spec.block_size, tokens_apart=tokens_apart)
    item = cache.element_size()
    page_bytes = cache[0].numel() * item * (cache.shape[0] // num_blocks)
    fits = piece is not None and fill_page((piece,), page_bytes)
    return Interior(words, (piece,) if piece is not None and fits else ())


def _attention_words(spec: AttentionSpec, module: object | None) -> tuple[str, bool]:
    """How a head's bytes are kept, and whether each token's lie together."""
    isa = getattr(module, "isa", "")
    if isa:
        return isa, False  # vLLM's CPU attention packs a block's tokens for the instruction set
    get_backend = getattr(module, "get_attn_backend", None)
    backend = get_backend().get_name() if get_backend is not None else ""
    plain = spec.kv_quant_mode in _PLAIN and spec.tokens_per_state == 1
    if plain and spec.state_content_bytes is None and backend in _KEY_THEN_VALUE:
        return "key, value", True
    if plain and spec.state_content_bytes is None and backend in _LATENTS:
        return "latent", True
    return backend, False


def one_number_of_kv_heads(config: dict[str, Any], total: int) -> int | None:
    """``total``, vLLM's number of KV heads of a whole layer, if every layer has as many; None if a
    model's configuration names another number too.

    A rank with one head may have a head of its own or share it: only this number tells.
    """
    others = set(_named_head_counts(config))
    return total if others == {total} else None


def _named_head_counts(config: object) -> Iterator[int]:
    for name, value in config.items() if isinstance(config, dict) else ():
        if isinstance(value, int) and _KV_HEADS.search(name):
            yield value
        elif isinstance(value, list) and _KV_HEADS.search(name):
            yield from (item for item in value if isinstance(item, int))
        for item in value if isinstance(value, list) else [value]:
            yield from _named_head_counts(item)


def _total_heads(spec: AttentionSpec, tp_size: int, kv_heads: int | None) -> int | None:
    """KV heads of the whole layer; None where that cannot be known.

    vLLM gives every rank its share, and at least one.
    """
    if spec.num_heads != spec.num_kv_heads:
        return None  # a backend's own packing
    if spec.max_tp_shards is not None:
        shards = min(tp_size, spec.max_tp_shards)
        return spec.num_kv_heads * shards if tp_size % shards == 0 else None
    if spec.num_kv_heads > 1 or tp_size == 1:
        return spec.num_kv_heads * tp_size
    return kv_heads if kv_heads is not None and tp_size % kv_heads == 0 else None


def _attention_piece(
    cache: torch.Tensor, num_blocks: int, total_heads: int, block_tokens: int, *, tokens_apart: bool
) -> Piece | None:
    """``cache`` is ``[num_blocks * rows, heads, tokens, content]``."""
    item = cache.element_size()
    rows, (_, heads, tokens, content) = cache.shape[0] // num_blocks, cache.shape
    row, head, token = (cache.stride(axis) * item for axis in range(3))
    cell_bytes, cell_tokens = content * item, block_tokens // (rows * tokens)
    if cell_tokens * rows * tokens != block_tokens:
        return None
    if not tokens_apart:
        if token != cell_bytes and tokens > 1:
            return None  # heads lie inside of what is packed together
        tokens, cell_bytes, cell_tokens = 1, tokens * cell_bytes, cell_tokens * tokens
    return Piece(
        offset=0,
        rows=rows,
        row_stride=row,
        units=heads,
        unit_stride=head,
        cells=tokens,
        cell_stride=token,
        cell_bytes=cell_bytes,
        total_units=total_heads,
        cell_tokens=cell_tokens,
    )


def _recurrent(spec: MambaSpec, module: object | None, tp_size: int) -> Interior:
    dtypes = ", ".join(dtype_name(dtype) for dtype in spec.dtypes)
    parts = _divided_parts(spec, module, tp_size)
    if parts is not None:
        pieces = _state_pieces(spec, parts)
        if fill_page(pieces, spec.state_content_size_bytes):
            return Interior(f"{spec.mamba_type.name} {dtypes}", pieces)
    states = ", ".join(
        f"{dtype_name(dtype)}{list(shape)}"
        for dtype, shape in zip(spec.dtypes, spec.shapes, strict=True)
    )
    words = f"{spec.mamba_type.name} {states}, convolutions {get_conv_state_layout()}"
    return Interior(words, (_undivided(spec),) if spec.tp_replicated else ())


def _undivided(spec: MambaSpec) -> Piece:
    """Every rank holds all of it."""
    size = spec.state_content_size_bytes
    strides = {"row_stride": size, "unit_stride": size, "cell_stride": size, "cell_bytes": size}
    return Piece(offset=0, rows=1, units=1, cells=1, total_units=1, **strides)


class _Part(NamedTuple):
    """Some channels of a convolution, or heads of a state: what this rank holds, of how many."""

    units: int
    total: int


def _divided_parts(
    spec: MambaSpec, module: object | None, tp_size: int
) -> list[list[_Part]] | None:
    """Per state, how its divided axis falls into parts; None where that cannot be known."""
    kind, shapes = spec.mamba_type, spec.shapes
    kinds = MambaAttentionBackendEnum
    if spec.tp_replicated:
        return None
    if kind is kinds.LINEAR and len(shapes) == 1:
        return [[_divided(shapes[0][0], tp_size)]]
    channels = _channels(shapes[0])
    if kind is kinds.SHORT_CONV and len(shapes) == 1:
        return [[_divided(channels, tp_size)]]
    if len(shapes) != 2:
        return None
    heads = _divided(shapes[1][0], tp_size)
    if kind is kinds.MAMBA1:
        return [[_divided(channels, tp_size)], [heads]]
    # Queries, keys, values; or x, B, C. The part that is not one of two equal ones is as wide as
    # the heads of the state.
    inner = shapes[1][0] * shapes[1][1]
    pair, odd = divmod(channels - inner, 2)
    if odd or pair <= 0:
        return None
    if kind is kinds.GDN_ATTN:
        keys = _divided(pair, tp_size)
        return [[keys, keys, _divided(inner, tp_size)], [heads]]
    if kind is kinds.MAMBA2:
        groups = getattr(getattr(module, "norm", None), "n_groups", None)
        if not isinstance(groups, int) or (tp_size > 1 and groups % tp_size and groups != 1):
            return None
        # One group is held by every rank.
        group = _Part(pair, pair if groups == 1 else pair * tp_size)
        return [[_divided(inner, tp_size), group, group], [heads]]
    return None


def _divided(units: int, tp_size: int) -> _Part:
    return _Part(units, units * tp_size)


def _channels(shape: Sequence[int]) -> int:
    return shape[0] if get_conv_state_layout() == "DS" else shape[1]


def _state_pieces(spec: MambaSpec, states: list[list[_Part]]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    offset = 0
    convolved = spec.mamba_type is not MambaAttentionBackendEnum.LINEAR
    for number, (shape, dtype, parts) in enumerate(
        zip(spec.shapes, spec.dtypes, states, strict=True)
    ):
        item = dtype.itemsize
        if number == 0 and convolved:
            channels = _channels(shape)
            taps = prod(shape) // channels
            channel_first = get_conv_state_layout() == "DS"
            tap, channel = (item, taps * item) if channel_first else (channels * item, item)
            cell = item
        else:
            cell = prod(shape[1:]) * item
            taps, tap, channel = 1, prod(shape) * item, cell
        first = 0
        for units, total in parts:
            pieces.append(
                Piece(
                    offset=offset + first * channel,
                    rows=taps,
                    row_stride=tap,
                    units=units,
                    unit_stride=channel,
                    cells=1,
                    cell_stride=cell,
                    cell_bytes=cell,
                    total_units=total,
                )
            )
            first += units
        offset += prod(shape) * item
    return tuple(pieces)


def dtype_name(dtype: torch.dtype) -> str:
    """Such as ``bfloat16``."""
    return str(dtype).removeprefix("torch.")
