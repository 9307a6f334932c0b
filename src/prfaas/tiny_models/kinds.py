"""The tiny models: one shape per way of holding a KV cache, as their config.json says it."""

from __future__ import annotations

from typing import Any, Literal

ModelKind = Literal["gdn", "sliding_window", "dense", "mla"]

VOCABULARY = 4096
HIDDEN = 256

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "max_position_embeddings": 65536,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "dtype": "bfloat16",
}

# Every expert takes part in every token: which experts a router picks is a near-tie of its own.
CONFIGS: dict[ModelKind, dict[str, Any]] = {
    # Gated DeltaNet hybrid, Qwen3-Next layout: six linear-attention layers, two full-attention.
    "gdn": _COMMON
    | {
        "model_type": "qwen3_next",
        "num_hidden_layers": 8,
        "intermediate_size": 512,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 128,
        "shared_expert_intermediate_size": 128,
        "tie_word_embeddings": False,
    },
    # Gemma 3 text layout: three sliding-window layers to each full-attention one.
    "sliding_window": _COMMON
    | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 8,
        "intermediate_size": 512,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 512,
        "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
        "tie_word_embeddings": True,
    },
    # Plain grouped-query attention, Qwen3 layout.
    "dense": _COMMON
    | {
        "model_type": "qwen3",
        "num_hidden_layers": 6,
        "intermediate_size": 512,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "tie_word_embeddings": False,
    },
    # Multi-head latent attention, DeepSeek-V2 layout: one 512 + 64 wide latent per token. YaRN, as
    # DeepSeek's models have it: vLLM's CPU kernel for plain rotary embedding takes MLA's keys,
    # slices of wider rows, for contiguous: a token would depend on how many are computed at once.
    "mla": _COMMON
    | {
        "model_type": "deepseek_v2",
        "num_hidden_layers": 4,
        "intermediate_size": 512,
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 32768,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 64,
        "v_head_dim": 64,
        "first_k_dense_replace": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "moe_intermediate_size": 128,
        "tie_word_embeddings": False,
    },
}
