"""Model geometry: hand-computed layers, the catalogue against published sizes, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.geometry.models import catalogue, geometry_of, load_model
from prfaas.models.kv_size import KvSize

# Bytes per token (bf16) and constant bytes with full windows (float32 states, bf16 convolutions),
# worked out from the published configs independently of this code; index keys and DeepSeek V4's
# entries in the formats of their own that vLLM keeps them in.
PUBLISHED = {
    "Kimi-K3": (27648, 449372160),
    "Kimi-Linear-48B-A3B": (8064, 43417600),
    "Kimi-K2.5": (70272, 0),
    "Qwen3.5-397B-A17B": (30720, 192061440),
    "Qwen3.5-122B-A10B": (24576, 153649152),
    "Qwen3.5-35B-A3B": (20480, 64389120),
    "Qwen3.5-27B": (65536, 153944064),
    "Qwen3.6-35B-A3B": (20480, 64389120),
    "Qwen3-Next-80B-A3B": (24576, 77266944),
    "Qwen3-235B-A22B": (192512, 0),
    "MiMo-V2-Flash": (23040, 25559040),
    "MiMo-V2.5": (23040, 25559040),
    "MiMo-V2.5-Pro": (51200, 39321600),
    "MiniMax-M2.5": (253952, 0),
    "MiniMax-M3": (137472, 0),
    "DeepSeek-V3": (70272, 0),
    "DeepSeek-V3.2": (61 * (1152 + 132), 0),
    "DeepSeek-V4-Flash": (3915, 15467904),
    "DeepSeek-V4-Pro": (30 * 180 + 31 * 6.75, 61 * 74880 + 30 * 82944 + 31 * 525312),
    "GLM-5.2": (78 * 1152 + 21 * 132, 0),
    "GLM-5.3-Flash": (11 * (1024 + 33), 147619840 + 11 * 4 * 512),
    "Ring-2.5-1T": (11520, 293601280),
    "Ling-2.6-flash": (4608, 58720256),
    "Nemotron-3-Nano-30B-A3B": (6144, 49082368),
    "Nemotron-3-Super-120B-A12B": (8192, 170229760),
    "Falcon-H1-34B": (147456, 304201728),
    "Falcon-H1-7B": (45056, 139358208),
    "Jamba2-Mini": (16384, 16056320),
    "Jamba-1.5-Large": (36864, 72253440),
    "gpt-oss-120b": (36864, 4718592),
    "LFM2-8B-A1B": (12288, 147456),
    "Gemma-4-31B": (81920, 838860800),
    "Llama-3.1-70B": (327680, 0),
}


def full_constant(kv: KvSize) -> float:
    return kv.constant_bytes + sum(w.bytes_per_token * w.tokens for w in kv.windows)


@pytest.mark.parametrize("name", PUBLISHED)
def test_catalogue_rows_match_published_sizes(name: str) -> None:
    kv = load_model(name).kv_size(state_dtype="float32")
    assert (kv.bytes_per_token, full_constant(kv)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "constant"), [("Qwen3.8-2.4T-A95B", 297885696), ("Qwen3.8-27B", 78446592)]
)
def test_a_bf16_state_halves_the_matrix_not_the_convolution(name: str, constant: int) -> None:
    assert full_constant(load_model(name).kv_size(state_dtype="bf16")) == constant


def test_every_catalogue_row_computes_and_names_its_source() -> None:
    for row in catalogue().values():
        model = load_model(row.name)
        assert sum(model.layers.values()) > 0
        assert len(model.source) > 10
        assert load_model(row.repository.upper()) == model


def geometry(**config: Any) -> KvSize:
    return geometry_of(config, name="m", source="test").kv_size()


LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_size": 512,
}


def test_gqa_head_dim_follows_from_the_hidden_size() -> None:
    assert geometry(**LLAMA).bytes_per_token == 2 * 2 * (64 + 64) * 2


def test_multi_head_attention_has_as_many_kv_heads_as_heads() -> None:
    assert geometry(**{**LLAMA, "num_key_value_heads": None}).bytes_per_token == 2 * 8 * 128 * 2


def test_kv_dtype_changes_keys_and_values_only() -> None:
    model = load_model("Qwen3-Next-80B-A3B")
    half, full = model.kv_size(kv_dtype="fp8"), model.kv_size()
    assert half.bytes_per_token == full.bytes_per_token / 2
    assert half.constant_bytes == full.constant_bytes


def test_a_sliding_window_stops_growing() -> None:
    kv = geometry(**{**LLAMA, "model_type": "mistral", "sliding_window": 100})
    assert kv.bytes_per_token == 0
    assert kv.bytes(50) == kv.bytes(100) / 2
    assert kv.bytes(100) == kv.bytes(5000)


def test_a_window_without_layer_types_is_every_layers() -> None:
    kv = geometry(**LLAMA, sliding_window=100)
    assert (kv.bytes_per_token, kv.windows[0].bytes_per_token) == (0, 2 * 512)


def test_what_a_config_leaves_out_is_its_class_default() -> None:
    text = {"model_type": "gemma3_text", "num_hidden_layers": 6, "hidden_size": 2560}
    kv = geometry(model_type="gemma3", text_config=text, torch_dtype="bfloat16")
    # Four KV heads of 256, five of six layers sliding over 4096 tokens.
    assert kv.bytes_per_token == 4096
    assert [(w.tokens, w.bytes_per_token) for w in kv.windows] == [(4096, 5 * 4096)]
    assert geometry(**{**LLAMA, "model_type": "mistral"}).windows[0].tokens == 4096


def test_what_an_outer_config_says_of_its_towers_is_not_the_text_models() -> None:
    with pytest.raises(ConfigError, match="no integer 'num_key_value_heads'"):
        geometry(
            model_type="ours",
            num_key_value_heads=8,
            text_config={**LLAMA, "model_type": "internlm2", "num_key_value_heads": None},
        )


@pytest.mark.parametrize(
    ("scheme", "dtype"),
    [
        ({"num_bits": 8, "type": "float", "dynamic": False}, "fp8"),
        ({"num_bits": 4, "type": "float"}, "nvfp4"),
        ({"num_bits": 8, "type": "float", "dynamic": True}, "bfloat16"),
        (None, "bfloat16"),
    ],
)
def test_a_modelopt_checkpoint_may_ask_for_a_kv_dtype(scheme: Any, dtype: str) -> None:
    quantized = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": scheme}
    model = geometry_of({**LLAMA, "quantization_config": quantized}, name="m", source="test")
    assert model.kv_dtype == dtype


def test_a_decilm_layer_may_have_no_attention() -> None:
    blocks = [
        {"attention": {"n_heads_in_group": 4, "no_op": False}},
        {"attention": {"n_heads_in_group": None, "no_op": True}},
    ]
    kv = geometry(**{**LLAMA, "model_type": "nemotron-nas", "block_configs": blocks})
    assert kv.bytes_per_token == 2 * (64 + 64) * 2


def test_indexed_mla_in_fp8_packs_its_scales() -> None:
    model = load_model("DeepSeek-V3.2")
    assert model.kv_size(kv_dtype="fp8").bytes_per_token == 61 * (656 + 132)


def test_states_follow_the_convolutions_unless_they_are_named() -> None:
    model = load_model("Jamba2-Mini")
    half, full = model.kv_size(), model.kv_size(convolution_dtype="float32")
    assert full.constant_bytes == 2 * half.constant_bytes


def test_qwen_slides_from_a_layer_on_if_it_is_told_to() -> None:
    config = {**LLAMA, "model_type": "qwen2", "sliding_window": 100, "max_window_layers": 1}
    assert geometry(**config).windows == ()
    kv = geometry(**config, use_sliding_window=True)
    assert (kv.bytes_per_token, kv.windows[0].bytes_per_token) == (512, 512)


def test_qwen_ignores_a_window_that_is_switched_off() -> None:
    config = {**LLAMA, "model_type": "qwen2", "sliding_window": 100, "use_sliding_window": False}
    assert geometry(**config).windows == ()


def test_mamba_2_alone_is_constant() -> None:
    kv = geometry(
        model_type="mamba2", num_hidden_layers=3, num_heads=4, head_dim=8, n_groups=2,
        state_size=16, conv_kernel=4, hidden_size=16, expand=2,
    )  # fmt: skip
    assert kv.bytes(10) == kv.bytes(100_000) == 3 * (4 * 8 * 16 * 2 + (32 + 64) * 3 * 2)


def test_lightning_attention_of_minimax_text() -> None:
    kv = geometry(
        model_type="minimax_text_01", num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, attn_type_list=[0, 1],
    )  # fmt: skip
    assert (kv.constant_bytes, kv.bytes_per_token) == (4 * 8 * 8 * 2, 2 * 16 * 2)


def test_ling_3_closes_with_latent_attention() -> None:
    kv = geometry(
        model_type="bailing_hybrid", num_hidden_layers=6, layer_group_size=4,
        num_attention_heads=2, head_dim=8, kv_lora_rank=10, qk_rope_head_dim=4,
        short_conv_kernel_size=4,
    )  # fmt: skip
    assert kv.bytes_per_token == 3 * 14 * 2
    assert kv.constant_bytes == 3 * (2 * 64 * 4 + 3 * 16 * 3 * 2)


def test_indexers_follow_the_schedule_of_the_config() -> None:
    kv = geometry(
        model_type="glm_moe_dsa", num_hidden_layers=7, kv_lora_rank=8, qk_rope_head_dim=2,
        index_head_dim=256, index_topk_freq=4, index_skip_topk_offset=3,
    )  # fmt: skip
    assert kv.bytes_per_token == 2 * 7 * 10 + 4 * (256 + 8)


def test_shared_kv_layers_keep_nothing() -> None:
    kv = geometry(
        model_type="gemma4_text", num_hidden_layers=4, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, global_head_dim=16, sliding_window=4, num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    assert (kv.bytes_per_token, full_constant(kv)) == (32 * 2, 4 * 16 * 2)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**LLAMA, "model_type": "holographic"}, "'holographic': is not known"),
        ({**LLAMA, "layer_types": ["full_attention", "spiral"]}, "layer 1 has type 'spiral'"),
        ({"model_type": "sarvam_mla", "num_hidden_layers": 1}, "no integer 'kv_lora_rank'"),
        ({"num_hidden_layers": 1}, "no 'model_type'"),
        ({"model_type": "minimax_m3", "num_hidden_layers": 1}, "sparse_attention_config"),
        ({**LLAMA, "torch_dtype": "float7"}, "unknown dtype 'float7'"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "1 entries in 'layer_types' for 2 layers"),
        ({"model_type": "gemma3", "num_hidden_layers": 1}, "no block 'text_config'"),
        (
            {**LLAMA, "model_type": "qwen3_moe", "num_key_value_heads": None},
            "no integer 'num_key_value_heads'",
        ),
        (
            {
                **LLAMA,
                "model_type": "nemotron_h",
                "mamba_num_heads": 2,
                "n_groups": 1,
                "ssm_state_size": 4,
                "conv_kernel": 4,
                "mamba_head_dim": 8,
            },
            "hybrid_override_pattern",
        ),
        ({**LLAMA, "model_type": "minimax_m3", "sparse_attention_config": {}}, "attention_freq"),
        (
            {
                "model_type": "deepseek_v4",
                "num_hidden_layers": 1,
                "head_dim": 8,
                "qk_rope_head_dim": 4,
                "sliding_window": 4,
                "index_head_dim": 8,
                "compress_ratios": [16],
            },
            "layer 0 has type '16'",
        ),
    ],
)
def test_what_is_not_known_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        geometry(**config)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "paddleocr_vl"])
def test_a_checkpoints_flat_fields_are_the_text_models(model_type: str) -> None:
    """As they are on the Hub, where these types have no block 'text_config'."""
    text = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    text |= {"hidden_size": 3584, "head_dim": 128}
    flat = geometry(model_type=model_type, **text, vision_config={"hidden_size": 1280})
    nested = geometry(model_type=model_type, text_config=text)
    assert flat == nested
    assert flat.bytes_per_token == 28 * 2 * 4 * 128 * 2


def test_what_is_no_model_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ConfigError, match=r"has no config\.json; of a GGUF file"):
        load_model(str(tmp_path))
    with pytest.raises(ConfigError, match="no such file or directory"):
        load_model(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"not in the catalogue|did you mean"):
        load_model("somebody/something")


def test_a_config_is_found_as_file_directory_and_cached_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"text_config": LLAMA}))
    refs = tmp_path / "models--acme--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    by_file = load_model(str(snapshot / "config.json"))
    assert load_model(str(snapshot)).layers == by_file.layers
    assert load_model("acme/tiny", hub_cache=tmp_path).layers == by_file.layers


def test_an_older_modelopt_checkpoint_says_its_kv_dtype_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    scheme = {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(scheme))
    assert load_model(str(tmp_path)).kv_dtype == "fp8_e4m3"


def test_unknown_models_and_broken_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean Kimi-Linear-48B-A3B"):
        load_model("kimi-linear-48b", hub_cache=tmp_path)
    for text in ("{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ConfigError, match="not valid JSON"):
            load_model(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a JSON object"):
        load_model(str(tmp_path))
