"""Models whose layers all attend: grouped-query, sliding window, latent, sparse, compressed."""

from __future__ import annotations

from prfaas.core.errors import ConfigError
from prfaas.core.geometry import layers as kv
from prfaas.core.geometry.fields import (
    FULL,
    SLIDING,
    Family,
    Fields,
    by_type,
    every,
    gqa,
    head_dim,
    kv_heads,
    mla,
)
from prfaas.core.geometry.layers import LayerCache


def _decoder(sliding_period: int | None = None, head_dim: int | None = None) -> Family:
    """Attention in every layer; ``sliding_period``: without `layer_types`, one full layer in so
    many and the others sliding (None: all full, or all sliding where the config says so)."""

    def family(fields: Fields) -> list[LayerCache]:
        full = gqa(fields, head_dim)
        types = fields.get("layer_types") or _attention_types(fields, sliding_period)
        known: dict[str, LayerCache | None] = {FULL: full}
        if SLIDING in types:
            known[SLIDING] = kv.windowed(full, fields.integer("sliding_window"))
        if "chunked_attention" in types:
            known["chunked_attention"] = kv.windowed(full, fields.integer("attention_chunk_size"))
        return by_type(fields, types, known)

    return family


def _attention_types(fields: Fields, sliding_period: int | None) -> list[str]:
    layers = fields.layers
    if sliding_period is not None:
        period = int(fields.get("sliding_window_pattern", sliding_period))
        return every(period, FULL, SLIDING, layers)
    if fields.get("sliding_window") is None or not fields.get("use_sliding_window", True):
        return [FULL] * layers
    first = int(fields.get("max_window_layers", 0)) if fields.get("use_sliding_window") else 0
    return [FULL if i < first else SLIDING for i in range(layers)]


def _llama4(fields: Fields) -> list[LayerCache]:
    full, layers = gqa(fields), fields.layers
    rope = fields.get("no_rope_layers") or [(i + 1) % 4 != 0 for i in range(layers)]
    chunked = kv.windowed(full, fields.integer("attention_chunk_size"))
    return [chunked if uses_rope else full for uses_rope in rope]


def _gemma4(fields: Fields) -> list[LayerCache]:
    own = fields.layers - int(fields.get("num_kv_shared_layers", 0))
    types = fields.get("layer_types") or every(6, FULL, SLIDING, fields.layers)
    heads = int(fields.get("num_global_key_value_heads") or kv_heads(fields))
    dim = int(fields.get("global_head_dim", 512))
    sliding = kv.windowed(gqa(fields, 256), fields.integer("sliding_window"))
    # The last layers attend to the keys and values of earlier ones and keep none of their own.
    return by_type(fields, types[:own], {FULL: kv.attention(heads, dim, dim), SLIDING: sliding})


def _mimo_v2(fields: Fields) -> list[LayerCache]:
    full = kv.attention(kv_heads(fields), head_dim(fields, 192), fields.integer("v_head_dim"))
    windowed = kv.windowed(
        kv.attention(
            fields.integer("swa_num_key_value_heads"),
            fields.integer("swa_head_dim"),
            fields.integer("swa_v_head_dim"),
        ),
        fields.integer("sliding_window"),
    )
    types = fields.get("layer_types") or [str(p) for p in fields.get("hybrid_layer_pattern", [])]
    if len(types) != fields.layers:
        raise ConfigError(f"{len(types)} entries of 'hybrid_layer_pattern', {fields.layers} layers")
    return by_type(fields, types, {FULL: full, "0": full, SLIDING: windowed, "1": windowed})


def _minimax_m2(fields: Fields) -> list[LayerCache]:
    kinds = fields.get("attn_type_list") or [1] * fields.layers
    return by_type(fields, [str(k) for k in kinds], {"1": gqa(fields)})


def _minimax_m3(fields: Fields) -> list[LayerCache]:
    sparse = fields.sub("sparse_attention_config")
    indexed = sum(map(bool, sparse.get("sparse_attention_freq", [])))
    index = kv.sparse_indexer(sparse.integer("sparse_index_dim"))
    return [gqa(fields)] * fields.layers + [index] * indexed


def _mla_only(fields: Fields) -> list[LayerCache]:
    return [mla(fields)] * fields.layers


def _mla_indexed(fields: Fields) -> list[LayerCache]:
    modes = fields.get("indexer_types") or ["full"] * fields.layers
    index = kv.sparse_indexer(fields.integer("index_head_dim"))
    return _mla_only(fields) + by_type(fields, modes, {"full": index, "shared": None})


def _deepseek_v4(fields: Fields) -> list[LayerCache]:
    dim = fields.integer("head_dim")
    window = kv.windowed(LayerCache("", per_token=dim), fields.integer("sliding_window"))
    caches = [window] * fields.layers
    for ratio in fields.get("compress_ratios", [])[: fields.layers]:
        if ratio:
            caches.append(kv.compressed_attention(dim, ratio))
        if ratio == 4:  # Only these layers select among their entries.
            caches.append(kv.sparse_indexer(fields.integer("index_head_dim"), pool=ratio))
    return caches


ATTENTION_MODELS: dict[str, Family] = {
    **dict.fromkeys(
        (
            "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
            "qwen3_vl_text", "qwen3_vl_moe_text", "mimo", "glm4", "glm4_moe", "phi3", "olmo2",
            "ernie4_5", "ernie4_5_moe", "granite", "granitemoe", "smollm3", "step3p7",
        ),
        _decoder(),
    ),
    "gemma2": _decoder(2, 256),
    "gemma3_text": _decoder(6, 256),
    "gpt_oss": _decoder(2, 64),
    "cohere2": _decoder(4),
    "olmo3": _decoder(4),
    "gemma4_text": _gemma4,
    "llama4_text": _llama4,
    "mimo_v2_flash": _mimo_v2,
    "minimax_m2": _minimax_m2,
    **dict.fromkeys(("minimax_m3", "minimax_m3_text", "minimax_m3_vl"), _minimax_m3),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"), _mla_only),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _mla_indexed),
    "deepseek_v4": _deepseek_v4,
}  # fmt: skip
