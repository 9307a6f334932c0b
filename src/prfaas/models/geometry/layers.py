"""What one layer of each kind keeps for a sequence, in elements; and a model as a list of layers.

Theory of operation. A layer caches up to three things: keys and values that grow with every token
(*block-level*, or only inside a *window*), a *recurrent state* of fixed size, and the last inputs
of a short *convolution*. Counting elements rather than bytes keeps the number format out: the KV
dtype, the state dtype and the model's own dtype (convolutions) are chosen when bytes are asked
for. Sizes are of the whole model, summed over tensor-parallel ranks without replication.
State shapes follow vLLM (model_executor/layers/mamba/mamba_utils.py).
"""

from __future__ import annotations

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.models.kv_size import KvSize, Window

_DTYPE_BYTES = {
    "float32": 4.0, "fp32": 4.0,
    "bfloat16": 2.0, "bf16": 2.0, "float16": 2.0, "fp16": 2.0,
    "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0, "int8": 1.0,
    "fp4": 0.5, "int4": 0.5,
}  # fmt: skip


def dtype_bytes(name: str) -> float:
    """Bytes of one element. Raises ConfigError for an unknown dtype."""
    if name not in _DTYPE_BYTES:
        raise ConfigError(f"unknown dtype {name!r}; use one of {', '.join(_DTYPE_BYTES)}")
    return _DTYPE_BYTES[name]


class LayerCache(msgspec.Struct, frozen=True):
    """What one layer keeps for one sequence, in elements."""

    kind: str
    per_token: float = 0.0
    """Elements per token; per token inside the window where ``window_tokens`` is set."""
    window_tokens: int | None = None
    state: int = 0
    convolution: int = 0


def attention(kv_heads: int, key_dim: int, value_dim: int) -> LayerCache:
    """Multi-head, grouped-query and multi-query attention: one key and value per KV head."""
    return LayerCache("full attention (GQA)", per_token=kv_heads * (key_dim + value_dim))


def windowed(layer: LayerCache, window_tokens: int) -> LayerCache:
    """The same attention, keeping only the last ``window_tokens`` tokens."""
    kind = f"sliding window {window_tokens}"
    return LayerCache(kind, per_token=layer.per_token, window_tokens=window_tokens)


def latent_attention(rank: int, rope_dim: int) -> LayerCache:
    """MLA: one compressed latent and one rotary key per token, shared by all heads."""
    return LayerCache("latent attention (MLA)", per_token=rank + rope_dim)


def sparse_indexer(dim: int, pool: int = 1) -> LayerCache:
    """Index keys of a sparse attention layer, one per ``pool`` tokens, beside its KV."""
    return LayerCache("sparse-attention indexer", per_token=dim / pool)


def compressed_attention(dim: int, ratio: int) -> LayerCache:
    """One shared entry of ``dim`` elements for every ``ratio`` tokens (DeepSeek V4)."""
    return LayerCache(f"compressed attention {ratio}:1", per_token=dim / ratio)


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
    """A model's caches: equal layers counted, and the dtypes its config asks for."""

    name: str
    model_type: str
    layers: dict[LayerCache, int]
    model_dtype: str
    state_dtype: str
    source: str
    note: str | None = None

    def kv_size(self, *, kv_dtype: str | None = None, state_dtype: str | None = None) -> KvSize:
        """S_kv of the model.

        Args:
            kv_dtype: of keys and values; None: the model's own.
            state_dtype: of recurrent states; None: what the config asks for, else float32.
        Raises ConfigError for an unknown dtype.
        """
        kv = dtype_bytes(kv_dtype or self.model_dtype)
        state = dtype_bytes(state_dtype or self.state_dtype)
        convolution = dtype_bytes(self.model_dtype)
        constant = growing = 0.0
        windows: dict[int, float] = {}
        for layer, count in self.layers.items():
            constant += count * (layer.state * state + layer.convolution * convolution)
            if layer.window_tokens is None:
                growing += count * layer.per_token * kv
            else:
                window = windows.get(layer.window_tokens, 0.0)
                windows[layer.window_tokens] = window + count * layer.per_token * kv
        return KvSize(constant, growing, tuple(Window(b, w) for w, b in sorted(windows.items())))
