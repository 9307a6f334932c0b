"""Models of latent attention (MLA): dense, under a sparse indexer, or compressed over tokens."""

from __future__ import annotations

from prfaas.models.geometry import layers as kv
from prfaas.models.geometry.fields import Family, Fields, by_type, indexer_modes, mla
from prfaas.models.geometry.layers import LayerCache


def _mla_only(fields: Fields) -> list[LayerCache]:
    return [mla(fields)] * fields.layers


def _twice_per_layer(fields: Fields) -> list[LayerCache]:
    """LongCat Flash: two attentions in every decoder layer."""
    return [mla(fields)] * (2 * fields.integer("num_layers"))


def _indexed(fields: Fields) -> list[LayerCache]:
    latent = kv.packed_latent_attention(
        fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim")
    )
    index = kv.sparse_indexer(fields.integer("index_head_dim"))
    modes = by_type(fields, indexer_modes(fields), {"full": index, "shared": None})
    return [latent] * fields.layers + modes


_RATIOS = {
    "sliding_attention": "0",
    "compressed_sparse_attention": "4",
    "heavily_compressed_attention": "128",
}


def _deepseek_v4(fields: Fields) -> list[LayerCache]:
    """Every layer has a window; most also keep compressed entries, those at 4:1 with an index.

    In vLLM an entry of 512 elements takes 584 bytes (448 in fp8, 64 in bfloat16, scales) whatever
    the KV dtype, and each compressor keeps float32 sums of the tokens it has yet to compress.
    """
    dim, index_dim = fields.integer("head_dim"), fields.integer("index_head_dim")
    entry = dim + fields.integer("qk_rope_head_dim") + 8
    window = kv.windowed(kv.paged("", entry, 64), fields.integer("sliding_window"))
    types = fields.types("compress_ratios", "layer_types")
    if types is None:
        raise fields.error("the config has no 'compress_ratios'")
    ratios = [_RATIOS.get(name, name) for name in types]
    light = kv.paged("compressed attention 4:1", entry, 256, ratio=4)
    heavy = kv.paged("compressed attention 128:1", entry, 256, ratio=128)
    compressed = by_type(fields, ratios, {"0": None, "1": None, "4": light, "128": heavy})
    index = kv.paged("sparse-attention indexer", index_dim + 4 * (index_dim // 128), 256, ratio=4)
    of_light = [index, _compressor(dim, 4), _compressor(index_dim, 4)]
    caches = [window] * fields.layers + compressed
    caches += of_light * compressed.count(light)
    return caches + [_compressor(dim, 128)] * compressed.count(heavy)


def _compressor(dim: int, ratio: int) -> LayerCache:
    """float32 keys and scores of the tokens of the group that is still open; a group of 4
    overlaps with the one before it."""
    overlap, block = (2, 4) if ratio == 4 else (1, 8)
    sums = kv.paged("", 2 * overlap * dim * 4, block)
    return kv.renamed(kv.windowed(sums, overlap * ratio), f"compressor {ratio}:1")


LATENT_MODELS: dict[str, Family] = {
    **dict.fromkeys(
        (
            "axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "pangu_ultra_moe",
            "sarvam_mla",
        ),
        _mla_only,
    ),
    "longcat_flash": _twice_per_layer,
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), _indexed),
    "deepseek_v4": _deepseek_v4,
}  # fmt: skip
