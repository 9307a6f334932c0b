"""The tiny models: one shape per way of holding a KV cache, as their config.json says it.

``gdn``, ``sliding_window``, ``dense`` and ``mla`` run on CPUs and GPUs, ``kda`` and ``mamba2`` on
GPUs only: vLLM's CPU build lacks their kernels.
"""

from __future__ import annotations

from typing import Any, Literal

ModelKind = Literal["gdn", "sliding_window", "dense", "mla", "kda", "mamba2"]

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
    # Multi-head latent attention, DeepSeek-V2 layout: one 512 + 64 wide latent per token, heads of
    # 128 + 64 and 128 as Hopper's kernels have them. YaRN, as DeepSeek's models have it: vLLM's CPU
    # kernel for plain rotary embedding takes MLA's keys, slices of wider rows, for contiguous: a
    # token would depend on how many are computed at once.
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
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "first_k_dense_replace": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 4,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "moe_intermediate_size": 128,
        "tie_word_embeddings": False,
    },
    # Kimi Linear layout: three layers of Kimi Delta Attention to each one of MLA without positions.
    "kda": _COMMON
    | {
        "model_type": "kimi_linear",
        "num_hidden_layers": 8,
        "intermediate_size": 512,
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "mla_use_nope": True,
        "linear_attn_config": {
            "kda_layers": [1, 2, 3, 5, 6, 7],
            "full_attn_layers": [4, 8],
            "head_dim": 128,
            "num_heads": 4,
            "short_conv_kernel_size": 4,
        },
        "first_k_dense_replace": 0,
        "num_experts": 4,
        "num_experts_per_token": 4,
        "num_shared_experts": 1,
        "moe_intermediate_size": 128,
        "num_expert_group": 1,
        "topk_group": 1,
        "tie_word_embeddings": False,
    },
    # Mamba-2 hybrid, Granite 4 layout: three Mamba-2 layers to each one of attention.
    "mamba2": _COMMON
    | {
        "model_type": "granitemoehybrid",
        "num_hidden_layers": 8,
        "layer_types": (["mamba"] * 3 + ["attention"]) * 2,
        "intermediate_size": 512,
        "shared_intermediate_size": 512,
        "num_key_value_heads": 2,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "mamba_n_heads": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 64,
        "mamba_d_head": 64,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_chunk_size": 256,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "attention_multiplier": 0.125,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "position_embedding_type": "rope",
        "tie_word_embeddings": False,
    },
}
