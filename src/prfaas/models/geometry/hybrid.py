"""Hybrid and recurrent models: most layers keep a state of fixed size, some or none attend."""

from __future__ import annotations

from prfaas.models.geometry import layers as kv
from prfaas.models.geometry.fields import (
    FULL,
    LINEAR,
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


def _gated_delta_net(fields: Fields) -> list[LayerCache]:
    linear = kv.gated_delta_net(
        fields.integer("linear_num_key_heads"),
        fields.integer("linear_key_head_dim"),
        fields.integer("linear_num_value_heads"),
        fields.integer("linear_value_head_dim"),
        fields.integer("linear_conv_kernel_dim"),
    )
    period = fields.count("full_attention_interval", 4)
    types = fields.types("layer_types") or every(period, FULL, LINEAR, fields.layers)
    return by_type(fields, types, {FULL: gqa(fields), LINEAR: linear})


def _olmo_hybrid(fields: Fields) -> list[LayerCache]:
    """Gated DeltaNet whose sizes follow from those of attention unless they are given."""
    attention_heads = fields.integer("num_attention_heads", least=1)
    key_heads = fields.count("linear_num_key_heads", attention_heads, least=1)
    usual = 3 * fields.integer("hidden_size") // (4 * key_heads)
    key_dim = fields.count("linear_key_head_dim", usual)
    linear = kv.gated_delta_net(
        key_heads,
        key_dim,
        fields.count("linear_num_value_heads", attention_heads),
        fields.count("linear_value_head_dim", 2 * key_dim),
        fields.integer("linear_conv_kernel_dim"),
    )
    types = fields.types("layer_types") or every(4, FULL, LINEAR, fields.layers)
    return by_type(fields, types, {FULL: gqa(fields), LINEAR: linear})


def _kda(fields: Fields) -> LayerCache:
    block = fields.sub("linear_attn_config") if fields.get("linear_attn_config") else fields
    return kv.kimi_delta_attention(
        block.integer("num_heads", "linear_num_heads"),
        block.integer("head_dim", "linear_head_dim"),
        block.integer("short_conv_kernel_size", "linear_conv_kernel_dim"),
    )


def _kimi_linear(fields: Fields) -> list[LayerCache]:
    types = fields.types("layer_types")
    if types is None:
        block = fields.sub("linear_attn_config")
        types = [FULL for _ in block.get("full_attn_layers", [])]
        types += [LINEAR for _ in block.get("kda_layers", [])]
        if len(types) != fields.layers:
            raise fields.error(f"'linear_attn_config' names {len(types)} of {fields.layers} layers")
    return by_type(fields, types, {FULL: mla(fields), LINEAR: _kda(fields)})


def _glm5_next(fields: Fields) -> list[LayerCache]:
    """Kimi Delta Attention and indexed MLA; an index key stands for ``index_kpool`` tokens, and
    the tokens of the pool that is still open keep theirs, with scores, in bfloat16."""
    types = fields.types("layer_types") or every(4, FULL, LINEAR, fields.layers)
    latent = kv.packed_latent_attention(
        fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim")
    )
    known = {FULL: latent, "indexed_attention": latent, LINEAR: _kda(fields)}
    index_dim, pool = fields.integer("index_head_dim"), fields.integer("index_kpool")
    of_index = [
        kv.sparse_indexer(index_dim, pool),
        kv.ring("open pool of the indexer", pool, 2 * 2 * index_dim),
    ]
    modes = zip(types, indexer_modes(fields), strict=True)
    indexed = sum(kind != LINEAR and mode == "full" for kind, mode in modes)
    return by_type(fields, types, known) + of_index * indexed


def _lightning_gqa(fields: Fields) -> list[LayerCache]:
    """MiniMax-Text-01 and M1: lightning attention with a full layer now and then."""
    linear = kv.lightning_attention(fields.integer("num_attention_heads"), head_dim(fields))
    types = fields.types("layer_types", "attn_type_list")
    if types is None:
        raise fields.error("the config has neither 'layer_types' nor 'attn_type_list'")
    full = gqa(fields)
    return by_type(fields, types, {FULL: full, LINEAR: linear, "1": full, "0": linear})


def _bailing(fields: Fields) -> list[LayerCache]:
    """Ring and Ling: one MLA layer closes each group of linear layers, which are lightning
    attention in 2.5 and 2.6 and Kimi Delta Attention (with its convolution) in 3.0."""
    layers, period = fields.layers, fields.integer("layer_group_size", least=1)
    heads, dim = fields.integer("num_attention_heads"), head_dim(fields)
    kernel = fields.count("short_conv_kernel_size", 0)
    types = every(period, FULL, LINEAR, layers)
    if not kernel:
        linear = kv.lightning_attention(heads, dim)
    else:
        linear = kv.kimi_delta_attention(heads, dim, kernel)
        whole = layers // period * period
        types = types[:whole] + [FULL] * (layers - whole)
    return by_type(fields, types, {FULL: mla(fields), LINEAR: linear})


def _mamba1(fields: Fields) -> LayerCache:
    expand = fields.factor("mamba_expand", "expand", default=2)
    channels = int(fields.integer("hidden_size") * expand)
    return kv.mamba1(
        channels,
        fields.integer("mamba_d_state", "state_size"),
        fields.integer("mamba_d_conv", "conv_kernel"),
    )


def _mamba2(fields: Fields, *dim_names: str) -> LayerCache:
    """``dim_names``: fields that give the width of a head; without one, the inner width does."""
    heads = fields.integer("mamba_num_heads", "mamba_n_heads", "num_heads", least=1)
    given = [name for name in dim_names if fields.value(name) not in (None, "auto")]
    if given:
        dim = fields.integer(*given)
    else:
        expand = fields.factor("mamba_expand", "expand", default=2)
        inner = int(fields.integer("hidden_size") * expand)
        dim = fields.count("mamba_d_ssm", inner) // heads
    return kv.mamba2(
        heads,
        dim,
        fields.integer("n_groups", "mamba_n_groups"),
        fields.integer("ssm_state_size", "mamba_d_state", "state_size"),
        fields.integer("conv_kernel", "mamba_d_conv"),
    )


def _jamba(fields: Fields) -> list[LayerCache]:
    period = fields.integer("attn_layer_period", least=1)
    offset = fields.integer("attn_layer_offset")
    full, linear = gqa(fields), _mamba1(fields)
    return [full if i % period == offset else linear for i in range(fields.layers)]


def _nemotron_h(fields: Fields) -> list[LayerCache]:
    full, linear = gqa(fields), _mamba2(fields, "mamba_head_dim")
    types = fields.types("layers_block_type", "layer_types", "hybrid_override_pattern")
    if types is None:
        raise fields.error("the config has no 'layers_block_type' or 'hybrid_override_pattern'")
    known = {"attention": full, FULL: full, "*": full, "mamba": linear, LINEAR: linear, "M": linear}
    nothing: dict[str, LayerCache | None] = dict.fromkeys(("mlp", "moe", "-", "E"))
    return by_type(fields, types, known | nothing)


def _zamba2(fields: Fields) -> list[LayerCache]:
    """Mamba-2 in every layer; the hybrid ones attend too, over twice the model's width."""
    hidden = fields.integer("hidden_size")
    width = 2 * hidden // fields.integer("num_attention_heads", least=1)
    inner = int(fields.factor("mamba_expand", default=2) * hidden)
    mamba_heads = fields.integer("n_mamba_heads", least=1)
    linear = kv.mamba2(
        mamba_heads,
        inner // mamba_heads,
        fields.integer("mamba_ngroups"),
        fields.integer("mamba_d_state"),
        fields.integer("mamba_d_conv"),
    )
    types = fields.types("layers_block_type")
    if types is None:
        raise fields.error("the config has no 'layers_block_type'")
    full = kv.attention(kv_heads(fields), width, width)
    hybrid = by_type(fields, types, {"hybrid": full, "mamba": None, LINEAR: None})
    return hybrid + [linear] * len(types)


def _mamba2_hybrid(fields: Fields) -> list[LayerCache]:
    """Bamba and Granite 4: Mamba-2 with full attention in named layers."""
    types = fields.types("layers_block_type", "layer_types")
    if types is None:
        full = fields.counts("attn_layer_indices") or []
        types = [FULL if i in full else LINEAR for i in range(fields.layers)]
    full_cache, linear = gqa(fields), _mamba2(fields, "mamba_d_head")
    known: dict[str, LayerCache | None] = {FULL: full_cache, "attention": full_cache}
    return by_type(fields, types, known | {LINEAR: linear, "mamba": linear})


def _falcon_h1(fields: Fields) -> list[LayerCache]:
    """Attention and Mamba-2 side by side in every layer."""
    return [gqa(fields), _mamba2(fields, "mamba_d_head")] * fields.layers


def _lfm2(fields: Fields) -> list[LayerCache]:
    types = fields.types("layer_types")
    if types is None:
        full = fields.counts("full_attn_idxs")
        types = [FULL if full is None or i in full else "conv" for i in range(fields.layers)]
    conv = kv.short_convolution(fields.integer("hidden_size"), fields.integer("conv_L_cache"))
    return by_type(fields, types, {FULL: gqa(fields), "conv": conv})


def _mamba1_only(fields: Fields) -> list[LayerCache]:
    return [_mamba1(fields)] * fields.layers


def _mamba2_only(fields: Fields) -> list[LayerCache]:
    return [_mamba2(fields, "head_dim")] * fields.layers


HYBRID_MODELS: dict[str, Family] = {
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _gated_delta_net),
    "olmo_hybrid": _olmo_hybrid,
    "kimi_linear": _kimi_linear,
    "glm5_next_text": _glm5_next,
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), _lightning_gqa),
    "bailing_hybrid": _bailing,
    "jamba": _jamba,
    **dict.fromkeys(("nemotron_h", "nemotron_h_puzzle", "cosmos3_edge_text"), _nemotron_h),
    "zamba2": _zamba2,
    **dict.fromkeys(("bamba", "granitemoehybrid"), _mamba2_hybrid),
    "falcon_h1": _falcon_h1,
    **dict.fromkeys(("lfm2", "lfm2_moe"), _lfm2),
    **dict.fromkeys(("mamba", "falcon_mamba"), _mamba1_only),
    "mamba2": _mamba2_only,
}
