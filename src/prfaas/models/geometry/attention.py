"""Models whose layers all attend with keys and values of their own: full, sliding, chunked."""

from __future__ import annotations

from collections.abc import Mapping

from prfaas.models.geometry import layers as kv
from prfaas.models.geometry.fields import (
    FULL,
    SLIDING,
    Family,
    Fields,
    by_type,
    gqa,
    head_dim,
    kv_heads,
)
from prfaas.models.geometry.layer_types import attention_types
from prfaas.models.geometry.layers import LayerCache

CHUNKED = "chunked_attention"


def _decoder(fields: Fields) -> list[LayerCache]:
    return _mixed(fields, gqa(fields), gqa(fields))


def _mixed(fields: Fields, full: LayerCache, sliding: LayerCache) -> list[LayerCache]:
    """Full and sliding layers, which may have heads of different sizes."""
    types = attention_types(fields)
    known: dict[str, LayerCache | None] = {FULL: full}
    if SLIDING in types:
        known[SLIDING] = kv.windowed(sliding, _window(fields))
    if CHUNKED in types:
        known[CHUNKED] = kv.chunked(full, fields.integer("attention_chunk_size"))
    return by_type(fields, types, known)


def _window(fields: Fields) -> int:
    """The window in tokens, as vLLM asks for it."""
    window = fields.integer("sliding_window")
    # Cohere's window does not count the token itself.
    return window + 1 if fields.model_type.startswith("cohere") else window


def _multi_query(fields: Fields) -> list[LayerCache]:
    """Falcon and StarCoder: one KV head unless a newer layout names more."""
    grouped = fields.get("new_decoder_architecture") or not fields.get("multi_query")
    heads = kv_heads(fields) if grouped else 1
    return [kv.attention(heads, head_dim(fields), head_dim(fields))] * fields.layers


def _chatglm(fields: Fields) -> list[LayerCache]:
    grouped = fields.get("multi_query_attention")
    heads = fields.integer("multi_query_group_num" if grouped else "num_attention_heads")
    return [kv.attention(heads, head_dim(fields), head_dim(fields))] * fields.layers


def _dbrx(fields: Fields) -> list[LayerCache]:
    block = fields.sub("attn_config")
    width = fields.integer("hidden_size") // fields.integer("num_attention_heads", least=1)
    return [kv.attention(block.integer("kv_n_heads"), width, width)] * fields.layers


def _unfolded_latent(fields: Fields) -> list[LayerCache]:
    """MiniCPM3: latent attention whose keys are unfolded before they are kept, values padded."""
    width = fields.integer("qk_nope_head_dim") + fields.integer("qk_rope_head_dim")
    return [kv.attention(fields.integer("num_attention_heads"), width, width)] * fields.layers


def _nemotron_nas(fields: Fields) -> list[LayerCache]:
    """DeciLM: every layer names how many heads share a KV head, or that it has no attention."""
    blocks = fields.get("block_configs")
    if not isinstance(blocks, list):
        raise fields.error("the config has no list 'block_configs'")
    heads, width = fields.integer("num_attention_heads"), head_dim(fields)
    found = []
    for number, block in enumerate(blocks):
        attention = block.get("attention") if isinstance(block, Mapping) else None
        if not isinstance(attention, Mapping):
            raise fields.error(f"block {number} of 'block_configs' has no 'attention'")
        if attention.get("no_op") or attention.get("replace_with_linear"):
            continue
        group = Fields({**attention, "model_type": fields.model_type})
        found.append(
            kv.attention(heads // group.integer("n_heads_in_group", least=1), width, width)
        )
    return found


def _llama4(fields: Fields) -> list[LayerCache]:
    types = fields.types("layer_types")
    if types is None:
        period = fields.count("no_rope_layer_interval", 4, least=1)
        rotary = fields.counts("no_rope_layers") or [(i + 1) % period for i in range(fields.layers)]
        types = [CHUNKED if uses_rotary else FULL for uses_rotary in rotary]
    chunked = kv.chunked(gqa(fields), fields.integer("attention_chunk_size"))
    return by_type(fields, types, {FULL: gqa(fields), CHUNKED: chunked})


def _gemma3n(fields: Fields) -> list[LayerCache]:
    # The last layers attend to the keys and values of earlier ones and keep none of their own.
    return _decoder(fields)[: fields.layers - fields.count("num_kv_shared_layers", 0)]


def _gemma4(fields: Fields) -> list[LayerCache]:
    own = fields.layers - fields.count("num_kv_shared_layers", 0)
    heads = kv_heads(fields)
    if fields.get("attention_k_eq_v"):
        heads = fields.count("num_global_key_value_heads", heads)
    dim = fields.count("global_head_dim", 512)
    sliding = kv.windowed(gqa(fields), fields.integer("sliding_window"))
    types = attention_types(fields)
    types[-1] = FULL
    return by_type(fields, types[:own], {FULL: kv.attention(heads, dim, dim), SLIDING: sliding})


def _mimo_v2(fields: Fields) -> list[LayerCache]:
    full = kv.attention(kv_heads(fields), head_dim(fields), fields.integer("v_head_dim"))
    windowed = kv.windowed(
        kv.attention(
            fields.integer("swa_num_key_value_heads"),
            fields.integer("swa_head_dim"),
            fields.integer("swa_v_head_dim"),
        ),
        fields.integer("sliding_window_size", "sliding_window"),
    )
    types = fields.types("hybrid_layer_pattern", "layer_types")
    if types is None:
        raise fields.error("the config has no 'hybrid_layer_pattern'")
    return by_type(fields, types, {FULL: full, "0": full, SLIDING: windowed, "1": windowed})


def _step3p5(fields: Fields) -> list[LayerCache]:
    """Layers of the type that ``attention_other_setting`` names have heads of their own."""
    full = sliding = gqa(fields)
    other = fields.get("attention_other_setting")
    if isinstance(other, Mapping):
        own = Fields({**other, "model_type": fields.model_type})
        width = own.count("head_dim", head_dim(fields))
        special = kv.attention(own.integer("num_attention_groups"), width, width)
        if other.get("attention_type") == SLIDING:
            sliding = special
        else:
            full = special
    return _mixed(fields, full, sliding)


def _minimax_m2(fields: Fields) -> list[LayerCache]:
    types = fields.types("attn_type_list") or ["1"] * fields.layers
    return by_type(fields, types, {"1": gqa(fields)})


def _minimax_m3(fields: Fields) -> list[LayerCache]:
    sparse = fields.sub("sparse_attention_config")
    modes = sparse.types("sparse_attention_freq")
    if modes is None:
        raise fields.error("the config has no 'sparse_attention_freq'")
    index = kv.bf16_indexer(sparse.integer("sparse_index_dim"))
    return [gqa(fields)] * fields.layers + by_type(fields, modes, {"1": index, "0": None})


_DECODERS = """
    afmoe apertus arcee aria_text bailing_moe bailing_moe_v2 bloom cohere cohere2 cohere2_moe
    cohere_compass_text cwm deepseek emu3_text_model ernie4_5 ernie4_5_moe ernie4_5_vl_moe_text
    exaone exaone4 exaone_moe flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe glm4v_moe_text
    glm4v_text glm_ocr_text gpt-sw3 gpt2 gpt_neox gpt_oss gptj granite granite_swa granitemoe
    granitemoe_swa granitemoeshared hunyuan_v1_dense hunyuan_v1_moe hunyuan_vl_text hy_v3
    hyperclovax internlm2 internlm3 iquestcoder jais2 laguna llama mellum mimo minicpm minicpmo
    minicpmv ministral3 mistral mixtral molmo molmo2_text moondream3_text muse_glimmer_text
    nanbeige nemotron olmo olmo2 olmo3 olmoe opt orion paddleocr_vl_text PanguEmbedded param2moe
    phi phi3 phi3_v phi4mm phimoe plamo3 qwen2 qwen2_5_omni_text qwen2_5_vl_text qwen2_moe
    qwen2_vl_text qwen3 qwen3_asr_text qwen3_moe qwen3_omni_moe_text qwen3_vl_moe_text
    qwen3_vl_text sarvam_moe seed_oss smollm3 solar stablelm starcoder2 step3_text telechat3
    vaultgemma
""".split()

ATTENTION_MODELS: dict[str, Family] = {
    **dict.fromkeys(_DECODERS, _decoder),
    **dict.fromkeys(("falcon", "RefinedWeb", "RefinedWebModel", "gpt_bigcode"), _multi_query),
    "chatglm": _chatglm,
    "dbrx": _dbrx,
    "minicpm3": _unfolded_latent,
    "nemotron-nas": _nemotron_nas,
    "gemma3n_text": _gemma3n,
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text", "diffusion_gemma_text"), _gemma4),
    "llama4_text": _llama4,
    **dict.fromkeys(("mimo_v2_flash", "mimo_v2"), _mimo_v2),
    "minimax_m2": _minimax_m2,
    **dict.fromkeys(("minimax_m3", "minimax_m3_text", "minimax_m3_vl_text"), _minimax_m3),
    "step3p5": _step3p5,
}
