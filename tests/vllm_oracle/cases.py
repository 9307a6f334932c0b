"""Configs of every layout that vLLM's CPU build can construct without weights.

A model type alone stands for its config class's defaults. Fields are added where vLLM's own code
needs one that the class lacks (checkpoints have them), and where a variant is worth a case.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# architecture, model type, model types of the configs nested in it.
PLAIN = """
    AXK1ForCausalLM axk1
    ArceeForCausalLM arcee
    Cohere2ForCausalLM cohere2
    Cohere2MoeForCausalLM cohere2_moe
    CohereForCausalLM cohere
    CwmForCausalLM cwm
    DeepseekV2ForCausalLM deepseek_v2
    DeepseekV3ForCausalLM deepseek_v3
    DeepseekV3ForCausalLM kimi_k2
    Ernie4_5ForCausalLM ernie4_5
    Ernie4_5_MoeForCausalLM ernie4_5_moe
    Exaone4ForCausalLM exaone4
    ExaoneMoeForCausalLM exaone_moe
    FalconForCausalLM falcon
    FalconH1ForCausalLM falcon_h1
    FalconMambaForCausalLM falcon_mamba
    GPT2ForSequenceClassification gpt2
    GPT2LMHeadModel gpt-sw3
    GPT2LMHeadModel gpt2
    GPTBigCodeForCausalLM gpt_bigcode
    GPTJForCausalLM gptj
    GPTNeoXForCausalLM gpt_neox
    Gemma2ForCausalLM gemma2
    Gemma2Model gemma2
    Gemma3ForCausalLM gemma3_text
    Gemma3TextModel gemma3_text
    Gemma4ForCausalLM gemma4_text
    GemmaForCausalLM gemma
    Glm4ForCausalLM glm4
    GlmForCausalLM glm
    GptOssForCausalLM gpt_oss
    GraniteForCausalLM granite
    GraniteMoeForCausalLM granitemoe
    GraniteMoeHybridForCausalLM granitemoehybrid
    GraniteMoeSWAForCausalLM granitemoe_swa
    GraniteMoeSharedForCausalLM granitemoeshared
    GraniteSWAForCausalLM granite_swa
    HyperCLOVAXForCausalLM hyperclovax
    Jais2ForCausalLM jais2
    JambaForCausalLM jamba
    JambaForSequenceClassification jamba
    LagunaForCausalLM laguna
    Llama4ForCausalLM llama4_text
    LlamaForCausalLM llama
    LlamaModel llama
    Mamba2ForCausalLM mamba2
    MambaForCausalLM mamba
    MellumForCausalLM mellum
    MiniCPM3ForCausalLM minicpm3
    Ministral3ForCausalLM ministral3
    MistralForCausalLM mistral
    MistralModel mistral
    MixtralForCausalLM mixtral
    MuseGlimmerForCausalLM muse_glimmer_text
    OPTForCausalLM opt
    Olmo2ForCausalLM olmo2
    Olmo3ForCausalLM olmo3
    OlmoForCausalLM olmo
    OlmoeForCausalLM olmoe
    Phi3ForCausalLM phi3
    PhiForCausalLM phi
    Qwen2ForCausalLM qwen2
    Qwen2Model qwen2
    Qwen2MoeForCausalLM qwen2_moe
    Qwen3ForCausalLM qwen3
    Qwen3MoeForCausalLM qwen3_moe
    Qwen3NextForCausalLM qwen3_next
    Qwen3_5ForCausalLM qwen3_5_text
    Qwen3_5MoeForCausalLM qwen3_5_moe_text
    SeedOssForCausalLM seed_oss
    SmolLM3ForCausalLM smollm3
    StableLmForCausalLM stablelm
    Starcoder2ForCausalLM starcoder2
    VaultGemmaForCausalLM vaultgemma
    AriaForConditionalGeneration aria aria_text
    AudioFlamingo3ForConditionalGeneration audioflamingo3 qwen2
    Blip2ForConditionalGeneration blip-2 opt
    Cohere2VisionForConditionalGeneration cohere2_vision cohere2
    ColPaliForRetrieval colpali gemma
    Exaone4_5_ForConditionalGeneration exaone4_5 exaone4
    Gemma3ForConditionalGeneration gemma3 gemma3_text
    GlmAsrForConditionalGeneration glmasr llama
    GlmOcrForConditionalGeneration glm_ocr glm_ocr_text
    Glm4vForConditionalGeneration glm4v glm4v_text
    GraniteSpeechForConditionalGeneration granite_speech granite
    GraniteSpeechPlusForConditionalGeneration granite_speech_plus granite
    Idefics3ForConditionalGeneration idefics3 llama
    InternVLForConditionalGeneration internvl qwen2
    Llama4ForConditionalGeneration llama4 llama4_text
    LlavaForConditionalGeneration llava llama
    LlavaNextForConditionalGeneration llava_next llama
    LlavaNextVideoForConditionalGeneration llava_next_video llama
    LlavaOnevisionForConditionalGeneration llava_onevision qwen2
    MiniCPMV4_6ForConditionalGeneration minicpmv4_6 qwen3_5_text
    MiniCPMV4_7ForConditionalGeneration minicpmv4_7 qwen3_5_text
    Mistral3ForConditionalGeneration mistral3 mistral
    MossTranscribeDiarizeForConditionalGeneration moss_transcribe_diarize qwen3
    MuseGlimmerForConditionalGeneration muse_glimmer muse_glimmer_text
    PaddleOCRVLForConditionalGeneration paddleocr_vl paddleocr_vl_text
    PaliGemmaForConditionalGeneration paligemma gemma
    Qwen2AudioForConditionalGeneration qwen2_audio qwen2
    Qwen2VLForConditionalGeneration qwen2_vl qwen2_vl_text
    Qwen2_5OmniForConditionalGeneration qwen2_5_omni qwen2_5_omni_thinker qwen2_5_omni_text
    Qwen2_5_VLForConditionalGeneration qwen2_5_vl qwen2_5_vl_text
    Qwen3ASRForConditionalGeneration qwen3_asr qwen3_asr_thinker qwen3_asr_text
    Qwen3VLForConditionalGeneration qwen3_vl qwen3_vl_text
    Qwen3_5ForConditionalGeneration qwen3_5 qwen3_5_text
    Qwen3_5MoeForConditionalGeneration qwen3_5_moe qwen3_5_moe_text
    SmolVLMForConditionalGeneration smolvlm llama
    KimiVLForConditionalGeneration kimi_vl deepseek_v2
"""

_NO_CACHE = """
    BertModel bert
    BertForMaskedLM bert
    BertForTokenClassification bert
    BertForSequenceClassification bert
    RobertaForMaskedLM roberta
    RobertaModel roberta
    RobertaForTokenClassification roberta
    RobertaForSequenceClassification roberta
    XLMRobertaForTokenClassification xlm-roberta
    XLMRobertaForSequenceClassification xlm-roberta
    ModernBertModel modernbert
    ModernBertForTokenClassification modernbert
    ModernBertForSequenceClassification modernbert
    OpenAIPrivacyFilterForTokenClassification openai_privacy_filter
    EmbeddingGemma2Model embedding_gemma2 embedding_gemma2_text
"""

# For model types whose class comes with the checkpoint.
_SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "embedding_dropout": 0.0,
    "attention_bias": False,
    "bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
}
_MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "scoring_func": "sigmoid",
    "score_function": "sigmoid",
    "moe_layer_freq": 1,
    "moe_router_enable_expert_bias": True,
    "topk_method": "noaux_tc",
}
_LATENT = {
    "q_lora_rank": 64, "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}  # fmt: skip
_WINDOWED = {"num_hidden_layers": 4, "sliding_window": 64}
_FP8_SCHEME = {"num_bits": 8, "type": "float", "dynamic": False}
_COMPRESSED_TENSORS = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {},
    "kv_cache_scheme": {**_FP8_SCHEME, "strategy": "tensor", "symmetric": True},
}
_MODELOPT = {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": []}
_VISION = {"num_hidden_layers": 1}


def cases() -> list[dict[str, Any]]:
    """Every case: ``id``, ``config`` and, where they are not the defaults, ``flags``."""
    found = [*_plain(PLAIN), *_plain(_NO_CACHE), *_variants(), *_checkpoint_classes(), *_flags()]
    assert len({case["id"] for case in found}) == len(found)
    return found


def _plain(table: str) -> Iterator[dict[str, Any]]:
    for line in table.split("\n"):
        if names := line.split():
            architecture, model_type, *nested = names
            config: dict[str, Any] = {}
            for inner in reversed(nested):
                name = "thinker_config" if inner.endswith("_thinker") else "text_config"
                config = {name: {"model_type": inner, **config}}
            yield _case(f"{architecture} {model_type}", architecture, model_type, **config)


def _case(
    id: str, architecture: str, model_type: str, /, *, flags: Any = None, **fields: Any
) -> dict[str, Any]:
    config = {"model_type": model_type, "architectures": [architecture], **fields}
    return {"id": id, "config": config} | ({"flags": flags} if flags else {})


def _variants() -> Iterator[dict[str, Any]]:
    """Known classes with fields that their defaults do not exercise, or that vLLM needs."""

    def case(architecture: str, model_type: str, why: str, **fields: Any) -> dict[str, Any]:
        return _case(f"{architecture} {model_type}: {why}", architecture, model_type, **fields)

    yield case("LlamaForCausalLM", "llama", "one window for all", **_WINDOWED)
    yield case("MixtralForCausalLM", "mixtral", "one window for all", **_WINDOWED)
    yield case("Phi3ForCausalLM", "phi3", "one window for all", **_WINDOWED)
    yield case("Starcoder2ForCausalLM", "starcoder2", "one window for all", **_WINDOWED)
    yield case("MistralForCausalLM", "mistral", "no window", sliding_window=None)
    slides = {**_WINDOWED, "use_sliding_window": True, "max_window_layers": 2}
    yield case("Qwen2ForCausalLM", "qwen2", "switched off", **_WINDOWED)
    yield case("Qwen2ForCausalLM", "qwen2", "all slide", **{**slides, "max_window_layers": 0})
    yield case("Qwen2MoeForCausalLM", "qwen2_moe", "some would slide", **slides)
    yield case("Qwen3MoeForCausalLM", "qwen3_moe", "all slide", **slides)
    yield case(
        "SmolLM3ForCausalLM", "smollm3", "no rope slides", **_WINDOWED, use_sliding_window=True
    )
    pattern = {"num_hidden_layers": 6, "sliding_window": 64, "sliding_window_pattern": 3}
    yield case("Gemma3ForCausalLM", "gemma3_text", "pattern as a number", **pattern)
    yield case("Cohere2ForCausalLM", "cohere2", "pattern as a number", **pattern)
    types = ["sliding_attention", "full_attention", "full_attention"]
    yield case(
        "GptOssForCausalLM", "gpt_oss", "named types", num_hidden_layers=3, layer_types=types
    )
    yield case(
        "Olmo3ForCausalLM", "olmo3", "named types, no window", num_hidden_layers=3,
        layer_types=types, sliding_window=None,
    )  # fmt: skip
    yield case(
        "Gemma4ForCausalLM", "gemma4_text", "shared and global heads", num_hidden_layers=12,
        num_kv_shared_layers=4, attention_k_eq_v=True, num_global_key_value_heads=2,
        global_head_dim=128,
    )  # fmt: skip
    yield case(
        "FalconForCausalLM", "falcon", "new decoder", num_hidden_layers=2,
        new_decoder_architecture=True, num_kv_heads=8, num_attention_heads=64, hidden_size=4096,
    )  # fmt: skip
    yield case(
        "Llama4ForCausalLM", "llama4_text", "every other layer", num_hidden_layers=4,
        no_rope_layer_interval=2, attention_chunk_size=128,
    )  # fmt: skip
    yield case(
        "NemotronHForCausalLM", "nemotron_h", "pattern", hybrid_override_pattern="M*M-",
        num_hidden_layers=4,
    )  # fmt: skip
    yield case(
        "JambaForCausalLM", "jamba", "other places", num_hidden_layers=6, attn_layer_period=3,
        attn_layer_offset=1,
    )  # fmt: skip
    yield case(
        "GraniteMoeHybridForCausalLM", "granitemoehybrid", "named types", num_hidden_layers=3,
        layer_types=["mamba", "attention", "mamba"], mamba_n_groups=2,
    )  # fmt: skip
    yield case(
        "FalconH1ForCausalLM", "falcon_h1", "head width given", num_hidden_layers=2,
        mamba_d_ssm=1024, mamba_n_heads=16, mamba_d_head=64, mamba_n_groups=2,
    )  # fmt: skip
    yield case(
        "Lfm2ForCausalLM", "lfm2", "named places", num_hidden_layers=4, full_attn_idxs=[1, 3],
        block_dim=2560, conv_dim=2560, conv_dim_out=2560, block_multiple_of=256,
        block_ff_dim=12288, block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=True,
    )  # fmt: skip
    yield case(
        "Qwen3_5ForCausalLM", "qwen3_5_text", "float32 states, other interval",
        num_hidden_layers=6, full_attention_interval=3, mamba_ssm_dtype="float32",
    )  # fmt: skip
    yield case(
        "Zamba2ForCausalLM", "zamba2", "named types", num_hidden_layers=6,
        layers_block_type=["mamba", "mamba", "hybrid"] * 2,
    )  # fmt: skip
    yield case("Glm4MoeForCausalLM", "glm4_moe", "head width given", head_dim=128)
    yield case("Glm4MoeLiteForCausalLM", "glm4_moe_lite", "first dense", first_k_dense_replace=1)
    yield case(
        "HYV3ForCausalLM",
        "hy_v3",
        "small",
        num_hidden_layers=2,
        first_k_dense_replace=1,
        expert_hidden_dim=64,
        route_norm=True,
    )
    yield case(
        "NemotronForCausalLM", "nemotron", "heads given", num_hidden_layers=2,
        num_key_value_heads=8,
    )  # fmt: skip
    yield case(
        "MiniMaxM2ForCausalLM",
        "minimax_m2",
        "small",
        num_hidden_layers=2,
        rotary_dim=64,
        scoring_func="sigmoid",
    )
    yield case(
        "MiMoV2FlashForCausalLM", "mimo_v2_flash", "windows with other heads",
        num_hidden_layers=4, hybrid_layer_pattern=[0, 1, 1, 0], swa_num_key_value_heads=8,
        swa_num_attention_heads=64, swa_head_dim=192, swa_v_head_dim=128, sliding_window_size=128,
        moe_layer_freq=[0, 1, 1, 1], attention_chunk_size=128, layernorm_epsilon=1e-5,
        add_swa_attention_sink_bias=True, add_full_attention_sink_bias=False,
        n_routed_experts=8, num_experts_per_tok=2, swa_rope_theta=10000,
        attention_value_scale=0.7,
    )  # fmt: skip
    yield case(
        "LongcatFlashForCausalLM", "longcat_flash", "two attentions a layer", num_layers=3,
        mla_scale_q_lora=True, mla_scale_kv_lora=True, zero_expert_type="identity",
        moe_intermediate_size=2048,
    )  # fmt: skip
    yield case(
        "DeepseekV4ForCausalLM", "deepseek_v4", "compressed", vocab_size=1000,
        num_hidden_layers=4, hidden_size=4096, num_attention_heads=64, num_key_value_heads=1,
        head_dim=512, qk_rope_head_dim=64, index_head_dim=128, index_n_heads=64, index_topk=512,
        sliding_window=128, compress_ratios=[0, 4, 128, 4, 0], hc_eps=1e-6, hc_mult=4,
        hc_sinkhorn_iters=20, rms_norm_eps=1e-6, q_lora_rank=1024, o_lora_rank=1024, o_groups=8,
        n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2,
        moe_intermediate_size=2048, num_hash_layers=0, routed_scaling_factor=1.5,
        norm_topk_prob=True, scoring_func="sqrtsoftplus", topk_method="noaux_tc",
        swiglu_limit=10.0, hidden_act="silu", compress_rope_theta=160000,
        rope_scaling={"rope_type": "yarn", "factor": 16,
                      "original_max_position_embeddings": 65536, "beta_fast": 32,
                      "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    )  # fmt: skip
    yield case(
        "Step3p5ForCausalLM", "step3p5", "types with other heads", num_hidden_layers=3,
        layer_types=types, sliding_window=64, rope_theta=[1e4] * 3, head_dim=128,
        attention_other_setting={
            "attention_type": "sliding_attention", "num_attention_heads": 64,
            "num_attention_groups": 4, "head_dim": 64,
        },
        rms_norm_eps=1e-6, moe_layers_enum="2", partial_rotary_factors=[1.0] * 3,
        yarn_only_types=["full_attention"], max_position_embeddings=512,
    )  # fmt: skip
    yield case(
        "Qwen3VLMoeForConditionalGeneration", "qwen3_vl_moe", "text given",
        text_config={"model_type": "qwen3_vl_moe_text", "norm_topk_prob": True},
    )  # fmt: skip
    yield case(
        "Gemma4ForConditionalGeneration", "gemma4", "with a vision tower",
        text_config={"model_type": "gemma4_text"}, vision_config=_VISION,
    )  # fmt: skip


def _checkpoint_classes() -> Iterator[dict[str, Any]]:
    def case(architecture: str, model_type: str, **fields: Any) -> dict[str, Any]:
        return _case(f"{architecture} {model_type}", architecture, model_type, **_SMALL | fields)

    yield case("InternLM2ForCausalLM", "internlm2")
    yield case("InternLM3ForCausalLM", "internlm3")
    yield case("OrionForCausalLM", "orion")
    yield case("IQuestCoderForCausalLM", "iquestcoder")
    yield case("TeleChat3ForCausalLM", "telechat3")
    yield case("SolarForCausalLM", "solar", bskcn_1=[1], bskcn_2=[2], bskcn_3=[1], bskcn_4=[2],
               bskcn_tv=[0.9, 0.8])  # fmt: skip
    yield case("MiniCPMForCausalLM", "minicpm", scale_emb=1, dim_model_base=256, scale_depth=1.0,
               num_experts=0)  # fmt: skip
    yield case("MiMoForCausalLM", "mimo", num_nextn_predict_layers=1)
    yield case("ExaoneForCausalLM", "exaone", num_layers=3, activation_function="silu",
               layer_norm_epsilon=1e-6)  # fmt: skip
    yield case("DeepseekForCausalLM", "deepseek", **_MOE)
    yield case(
        "BailingMoeForCausalLM",
        "bailing_moe",
        **_MOE,
        head_dim=32,
        use_qkv_bias=False,
        use_bias=False,
        embedding_dropout=0.0,
    )
    yield case("BailingMoeV2ForCausalLM", "bailing_moe_v2", **_MOE, use_qkv_bias=False,
               use_bias=False, head_dim=64, use_qk_norm=True)  # fmt: skip
    yield case("PhiMoEForCausalLM", "phimoe", num_local_experts=4, num_experts_per_tok=2,
               lm_head_bias=False, router_jitter_noise=0.0)  # fmt: skip
    yield case("PanguEmbeddedForCausalLM", "PanguEmbedded")
    yield case("SarvamMoEForCausalLM", "sarvam_moe", **_MOE, use_qkv_bias=False, use_bias=False,
               head_dim=64, use_qk_norm=True)  # fmt: skip
    yield case("Param2MoEForCausalLM", "param2moe", **_MOE, use_qkv_bias=False, use_bias=False,
               head_dim=64, use_qk_norm=True)  # fmt: skip
    yield case("SarvamMLAForCausalLM", "sarvam_mla", **_MOE, **_LATENT)
    yield case("PanguUltraMoEForCausalLM", "pangu_ultra_moe", **_MOE, **_LATENT,
               sandwich_norm=True)  # fmt: skip
    yield case("BailingMoeV2_5ForCausalLM", "bailing_hybrid", **_MOE, **_LATENT,
               num_hidden_layers=5, layer_group_size=4, head_dim=32, use_qkv_bias=False,
               use_bias=False, group_norm_size=1, use_qk_norm=True, linear_silu=False)  # fmt: skip
    yield case("ChatGLMModel", "chatglm", num_layers=3, multi_query_attention=True,
               multi_query_group_num=2, kv_channels=32, ffn_hidden_size=64, add_qkv_bias=True,
               original_rope=True, padded_vocab_size=128, seq_length=512, rmsnorm=True,
               layernorm_epsilon=1e-5, post_layer_norm=True, add_bias_linear=False,
               apply_residual_connection_post_layernorm=False)  # fmt: skip


def _flags() -> Iterator[dict[str, Any]]:
    """What dtypes the config and vLLM's flags lead to."""

    def case(name: str, flags: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        return _case(name, "LlamaForCausalLM", "llama", flags=flags, num_hidden_layers=1, **fields)

    yield case("a float32 checkpoint", torch_dtype="float32")
    yield case("a float16 checkpoint", torch_dtype="float16")
    yield case("--dtype float32", {"dtype": "float32"})
    yield case("--kv-cache-dtype fp8", {"kv_cache_dtype": "fp8"})
    yield case(
        "weights in fp8",
        quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"},
    )
    yield case("compressed-tensors with fp8 KV", quantization_config=_COMPRESSED_TENSORS)
    yield case(
        "fp8 KV of the checkpoint overruled", {"kv_cache_dtype": "bfloat16"},
        quantization_config=_COMPRESSED_TENSORS,
    )  # fmt: skip
    yield case(
        "modelopt with an fp8 KV scheme",
        quantization_config=_MODELOPT | {"kv_cache_scheme": _FP8_SCHEME},
    )
    yield case(
        "modelopt with an fp8 KV algorithm",
        quantization_config={
            "producer": {"name": "modelopt"},
            "quantization": {
                "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": [],
            },
        },
    )  # fmt: skip
    yield case(
        "modelopt with a dynamic KV scheme",
        quantization_config=_MODELOPT | {"kv_cache_scheme": _FP8_SCHEME | {"dynamic": True}},
    )
    yield _case(
        "float16 refused by gemma3", "Gemma3ForCausalLM", "gemma3_text", num_hidden_layers=1,
        torch_dtype="float16",
    )  # fmt: skip
    yield _case(
        "compressed-tensors with MLA", "DeepseekV3ForCausalLM", "deepseek_v3",
        num_hidden_layers=1, quantization_config=_COMPRESSED_TENSORS,
    )  # fmt: skip
    yield _case(
        "--kv-cache-dtype fp8 with MLA", "DeepseekV3ForCausalLM", "deepseek_v3",
        flags={"kv_cache_dtype": "fp8"}, num_hidden_layers=1,
    )  # fmt: skip
    yield _case(
        "--mamba-ssm-cache-dtype float32", "JambaForCausalLM", "jamba",
        flags={"mamba_ssm_cache_dtype": "float32"}, num_hidden_layers=8,
    )  # fmt: skip
    yield _case(
        "--mamba-cache-dtype float32", "Mamba2ForCausalLM", "mamba2",
        flags={"mamba_cache_dtype": "float32"}, num_hidden_layers=2,
    )  # fmt: skip
