"""What one layer of each kind keeps for a sequence, in elements; and a model as a list of layers.

Theory of operation. A layer caches up to three things: keys and values that grow with every token
(*block-level*, or only inside a *window*), a *recurrent state* of fixed size, and the last inputs
of a short *convolution*. Counting elements rather than bytes keeps the number format out: the KV
dtype, the state dtype and the model's own dtype (convolutions) are chosen when bytes are asked
for. Only what has a format of its own (index keys, packed entries) is counted in bytes. Sizes are
of the whole model, summed over tensor-parallel ranks without replication.
State shapes follow vLLM (model_executor/layers/mamba/mamba_utils.py).
"""

from __future__ import annotations

import msgspec

from prfaas.models.geometry.dtypes import dtype_bytes, is_fp8
from prfaas.models.kv_size import KvSize, Window


class LayerCache(msgspec.Struct, frozen=True):
    """What one layer keeps for one sequence, in elements; in bytes where it has its own format."""

    kind: str
    per_token: float = 0.0
    """Elements per token in the KV dtype; per token inside the window where one is set."""
    own_bytes: float = 0.0
    """Bytes per token in a format that the KV dtype does not change."""
    packed_fp8_bytes: float = 0.0
    """Bytes per token instead of ``per_token`` where the KV dtype is fp8 and scales are packed
    beside the values; 0: one byte per element."""
    window_tokens: int | None = None
    state: int = 0
    convolution: int = 0

    def bytes_per_token(self, kv_dtype: str) -> float:
        """Bytes per token with keys and values in ``kv_dtype``.

        Raises ConfigError for an unknown dtype.
        """
        element = dtype_bytes(kv_dtype)
        if self.packed_fp8_bytes and is_fp8(kv_dtype):
            return self.packed_fp8_bytes
        return self.per_token * element + self.own_bytes

    def constant_bytes(self, *, state_dtype: str, convolution_dtype: str) -> float:
        """Bytes that do not grow. Raises ConfigError for an unknown dtype."""
        return self.state * dtype_bytes(state_dtype) + self.convolution * dtype_bytes(
            convolution_dtype
        )


def attention(kv_heads: int, key_dim: int, value_dim: int) -> LayerCache:
    """Multi-head, grouped-query and multi-query attention: one key and value per KV head."""
    return LayerCache("full attention (GQA)", per_token=kv_heads * (key_dim + value_dim))


def windowed(layer: LayerCache, window_tokens: int) -> LayerCache:
    """The same attention, keeping only the last ``window_tokens`` tokens."""
    kind = f"sliding window {window_tokens}"
    return msgspec.structs.replace(layer, kind=kind, window_tokens=window_tokens)


def chunked(layer: LayerCache, chunk_tokens: int) -> LayerCache:
    """The same attention inside chunks of ``chunk_tokens``: a window that starts anew."""
    kind = f"chunked attention {chunk_tokens}"
    return msgspec.structs.replace(layer, kind=kind, window_tokens=chunk_tokens)


def renamed(layer: LayerCache, kind: str) -> LayerCache:
    """The same cache under another name."""
    return msgspec.structs.replace(layer, kind=kind)


def latent_attention(rank: int, rope_dim: int) -> LayerCache:
    """MLA: one compressed latent and one rotary key per token, shared by all heads."""
    return LayerCache("latent attention (MLA)", per_token=rank + rope_dim)


def packed_latent_attention(rank: int, rope_dim: int) -> LayerCache:
    """MLA under a sparse indexer: in fp8 it is packed as the latent, a float32 scale for every
    128 of it, and the rotary key in bfloat16 (vLLM's ``fp8_ds_mla``)."""
    packed = rank + 4 * (rank // 128) + 2 * rope_dim
    return LayerCache("latent attention (MLA)", per_token=rank + rope_dim, packed_fp8_bytes=packed)


def sparse_indexer(dim: int, pool: int = 1) -> LayerCache:
    """Index keys of a sparse attention layer, one per ``pool`` tokens, beside its KV: fp8 with a
    float32 scale for every 128 elements, whatever the KV dtype."""
    return LayerCache("sparse-attention indexer", own_bytes=(dim + 4 * (dim // 128)) / pool)


def bf16_indexer(dim: int) -> LayerCache:
    """Index keys of a sparse attention layer that are kept in bfloat16 (MiniMax M3)."""
    return LayerCache("sparse-attention indexer", own_bytes=2 * dim)


def ring(kind: str, slots: int, slot_bytes: float) -> LayerCache:
    """A buffer of ``slots`` entries that every sequence has for as long as it lives."""
    return LayerCache(kind, window_tokens=slots, own_bytes=slot_bytes)


def paged(kind: str, entry_bytes: int, block_tokens: int, *, ratio: int = 1) -> LayerCache:
    """Entries of ``entry_bytes``, one for every ``ratio`` tokens, in pages of ``block_tokens``
    that are padded to a multiple of 576 bytes (DeepSeek V4's layout in vLLM)."""
    page = -(-(block_tokens // ratio * entry_bytes) // 576) * 576
    return LayerCache(kind, own_bytes=page / block_tokens)


def gated_delta_net(
    key_heads: int, key_dim: int, value_heads: int, value_dim: int, kernel: int
) -> LayerCache:
    """Gated DeltaNet: a key x value matrix per value head; convolution over q, k and v."""
    channels = 2 * key_heads * key_dim + value_heads * value_dim
    state = value_heads * key_dim * value_dim
    return LayerCache("Gated DeltaNet", state=state, convolution=channels * (kernel - 1))


def kimi_delta_attention(heads: int, dim: int, kernel: int) -> LayerCache:
    """Kimi Delta Attention: the state of Gated DeltaNet, q, k and v of one size."""
    channels = 3 * heads * dim
    return LayerCache(
        "Kimi Delta Attention", state=heads * dim * dim, convolution=channels * (kernel - 1)
    )


def lightning_attention(heads: int, dim: int) -> LayerCache:
    """Lightning (plain linear) attention: a key x value matrix per head, no convolution."""
    return LayerCache("lightning attention", state=heads * dim * dim)


def mamba1(channels: int, state_dim: int, kernel: int) -> LayerCache:
    """Mamba-1: ``state_dim`` numbers per channel."""
    return LayerCache("Mamba-1", state=channels * state_dim, convolution=channels * (kernel - 1))


def mamba2(heads: int, head_dim: int, groups: int, state_dim: int, kernel: int) -> LayerCache:
    """Mamba-2: a head_dim x state_dim matrix per head; convolution over x, B and C."""
    channels = heads * head_dim + 2 * groups * state_dim
    state = heads * head_dim * state_dim
    return LayerCache("Mamba-2", state=state, convolution=channels * (kernel - 1))


def short_convolution(channels: int, kernel: int) -> LayerCache:
    """A gated short convolution (LFM2): its last ``kernel - 1`` inputs."""
    return LayerCache("short convolution", convolution=channels * (kernel - 1))


class ModelGeometry(msgspec.Struct, frozen=True, kw_only=True):
    """A model's caches: equal layers counted, and the dtypes that vLLM's ``auto`` leads to.

    ``state_dtype`` None: recurrent states have the dtype of convolution states.
    """

    name: str
    model_type: str
    layers: dict[LayerCache, int]
    model_dtype: str
    kv_dtype: str
    state_dtype: str | None
    source: str
    note: str | None = None

    def kv_size(
        self,
        *,
        kv_dtype: str | None = None,
        state_dtype: str | None = None,
        convolution_dtype: str | None = None,
    ) -> KvSize:
        """S_kv of the model. None of a dtype: what the model has when vLLM's flag says ``auto``.

        Args:
            kv_dtype: of keys and values (vLLM's ``--kv-cache-dtype``).
            state_dtype: of recurrent states (``--mamba-ssm-cache-dtype``).
            convolution_dtype: of convolution states (``--mamba-cache-dtype``).
        Raises ConfigError for an unknown dtype.
        """
        kv = kv_dtype or self.kv_dtype
        convolution = convolution_dtype or self.model_dtype
        state = state_dtype or self.state_dtype or convolution
        constant = growing = 0.0
        windows: dict[int, float] = {}
        for layer, count in self.layers.items():
            constant += count * layer.constant_bytes(
                state_dtype=state, convolution_dtype=convolution
            )
            if layer.window_tokens is None:
                growing += count * layer.bytes_per_token(kv)
            else:
                window = windows.get(layer.window_tokens, 0.0)
                windows[layer.window_tokens] = window + count * layer.bytes_per_token(kv)
        return KvSize(constant, growing, tuple(Window(b, w) for w, b in sorted(windows.items())))
