"""Models whose layers all attend: grouped-query, sliding window, latent, sparse, compressed."""

from __future__ import annotations

from prfaas.models.geometry import layers as kv
from prfaas.models.geometry.fields import (
    FULL,
    SLIDING,
    Family,
    Fields,
    by_type,
    every,
    gqa,
    head_dim,
    indexer_modes,
    kv_heads,
    mla,
)
from prfaas.models.geometry.layers import LayerCache

CHUNKED = "chunked_attention"

# Without `layer_types`: one full layer closes so many, the others slide.
_SLIDING_PERIOD = {"gemma2": 2, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4, "olmo3": 4}
_SLIDING_ALL = {"mistral", "mixtral", "phi3"}
_SLIDING_FROM = {"qwen2", "qwen2_moe", "qwen3", "mimo"}
_OFF_UNLESS_ASKED = _SLIDING_FROM | {"qwen3_moe", "smollm3"}


def _decoder(fields: Fields) -> list[LayerCache]:
    full = gqa(fields)
    types = fields.types("layer_types") or _attention_types(fields)
    known: dict[str, LayerCache | None] = {FULL: full}
    if SLIDING in types:
        known[SLIDING] = kv.windowed(full, fields.integer("sliding_window"))
    if CHUNKED in types:
        known[CHUNKED] = kv.windowed(full, fields.integer("attention_chunk_size"))
    return by_type(fields, types, known)


def _attention_types(fields: Fields) -> list[str]:
    """Which layers slide, by the rules of the model type's own config class."""
    model_type, layers = fields.model_type, fields.layers
    if model_type in _SLIDING_PERIOD:
        period = int(fields.get("sliding_window_pattern", _SLIDING_PERIOD[model_type]))
        return every(period, FULL, SLIDING, layers)
    if model_type == "mistral" and "sliding_window" not in fields:
        raise fields.error("the config has no 'sliding_window'; null means full attention")
    flag = fields.get("use_sliding_window", model_type not in _OFF_UNLESS_ASKED)
    if fields.get("sliding_window") is None or not flag:
        return [FULL] * layers
    if model_type in _SLIDING_ALL:
        return [SLIDING] * layers
    if model_type in _SLIDING_FROM:
        first = fields.integer("max_window_layers")
        return [FULL if i < first else SLIDING for i in range(layers)]
    raise fields.error("a sliding window, but no 'layer_types' that say which layers slide")


def _llama4(fields: Fields) -> list[LayerCache]:
    types = fields.types("layer_types")
    if types is None:
        period = int(fields.get("no_rope_layer_interval", 4))
        rotary = fields.get("no_rope_layers") or [(i + 1) % period for i in range(fields.layers)]
        types = [CHUNKED if uses_rotary else FULL for uses_rotary in rotary]
    chunked = kv.windowed(gqa(fields), fields.integer("attention_chunk_size"))
    return by_type(fields, types, {FULL: gqa(fields), CHUNKED: chunked})


def _gemma4(fields: Fields) -> list[LayerCache]:
    own = fields.layers - int(fields.get("num_kv_shared_layers", 0))
    types = fields.types("layer_types") or every(6, FULL, SLIDING, fields.layers)
    heads = int(fields.get("num_global_key_value_heads") or kv_heads(fields))
    dim = int(fields.get("global_head_dim", 512))
    sliding = kv.windowed(gqa(fields), fields.integer("sliding_window"))
    # The last layers attend to the keys and values of earlier ones and keep none of their own.
    return by_type(fields, types[:own], {FULL: kv.attention(heads, dim, dim), SLIDING: sliding})


def _mimo_v2(fields: Fields) -> list[LayerCache]:
    full = kv.attention(kv_heads(fields), head_dim(fields), fields.integer("v_head_dim"))
    windowed = kv.windowed(
        kv.attention(
            fields.integer("swa_num_key_value_heads"),
            fields.integer("swa_head_dim"),
            fields.integer("swa_v_head_dim"),
        ),
        fields.integer("sliding_window"),
    )
    types = fields.types("layer_types", "hybrid_layer_pattern")
    if types is None:
        raise fields.error("the config has no 'hybrid_layer_pattern'")
    return by_type(fields, types, {FULL: full, "0": full, SLIDING: windowed, "1": windowed})


def _minimax_m2(fields: Fields) -> list[LayerCache]:
    types = fields.types("attn_type_list") or ["1"] * fields.layers
    return by_type(fields, types, {"1": gqa(fields)})


def _minimax_m3(fields: Fields) -> list[LayerCache]:
    sparse = fields.sub("sparse_attention_config")
    modes = sparse.types("sparse_attention_freq")
    if modes is None:
        raise fields.error("the config has no 'sparse_attention_freq'")
    index = kv.sparse_indexer(sparse.integer("sparse_index_dim"))
    return [gqa(fields)] * fields.layers + by_type(fields, modes, {"1": index, "0": None})


def _mla_only(fields: Fields) -> list[LayerCache]:
    return [mla(fields)] * fields.layers


def _mla_indexed(fields: Fields) -> list[LayerCache]:
    index = kv.sparse_indexer(fields.integer("index_head_dim"))
    return _mla_only(fields) + by_type(
        fields, indexer_modes(fields), {"full": index, "shared": None}
    )


def _deepseek_v4(fields: Fields) -> list[LayerCache]:
    """Every layer has a window; most also keep compressed entries, those at 4:1 with an index."""
    dim = fields.integer("head_dim")
    window = kv.windowed(LayerCache("", per_token=dim), fields.integer("sliding_window"))
    ratios = fields.types("compress_ratios")
    if ratios is None:
        raise fields.error("the config has no 'compress_ratios'")
    light, heavy = kv.compressed_attention(dim, 4), kv.compressed_attention(dim, 128)
    index = kv.sparse_indexer(fields.integer("index_head_dim"), pool=4)
    compressed = by_type(fields, ratios, {"0": None, "4": light, "128": heavy})
    return [window] * fields.layers + compressed + [index] * compressed.count(light)


ATTENTION_MODELS: dict[str, Family] = {
    **dict.fromkeys(
        (
            "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
            "qwen3_vl_text", "qwen3_vl_moe_text", "mimo", "glm4", "glm4_moe", "phi3", "olmo2",
            "ernie4_5", "ernie4_5_moe", "granite", "granitemoe", "smollm3", "gemma2",
            "gemma3_text", "gpt_oss", "cohere2", "olmo3",
        ),
        _decoder,
    ),
    "gemma4_text": _gemma4,
    "llama4_text": _llama4,
    "mimo_v2_flash": _mimo_v2,
    "minimax_m2": _minimax_m2,
    **dict.fromkeys(("minimax_m3", "minimax_m3_text", "minimax_m3_vl"), _minimax_m3),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite"), _mla_only),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _mla_indexed),
    "deepseek_v4": _deepseek_v4,
}  # fmt: skip
