"""Models of real size, as their config.json says it, without weights: vLLM fills in its own
(``--load-format dummy``). Sizes of layers, experts and KV cache are the real ones, so prefill takes
as long as with real weights, but for which experts the router chooses.

``kimi-linear-48b``, the same with a quarter of its experts (three engines then fit on one GPU; a
chunk of 8,192 tokens uses every expert either way), and Qwen3-Next with a quarter of its
experts and an eighth.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from prfaas.tiny_models.cache import ensure

PREFIX = "layout:"
ENGINE_ARGS = ("--load-format", "dummy")
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"
)  # fmt: skip
_FULL_ATTENTION = (4, 8, 12, 16, 20, 24, 27)
_COMMON = {"dtype": "bfloat16", "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
           "tie_word_embeddings": False}  # fmt: skip


def _kimi_linear(experts: int) -> dict[str, Any]:
    """config.json of moonshotai/Kimi-Linear-48B-A3B-Instruct (256 experts)."""
    return _COMMON | {
        "architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear",
        "hidden_size": 2304, "num_hidden_layers": 27, "vocab_size": 163840,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 72,
        "intermediate_size": 9216, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "mla_use_nope": True, "rope_theta": 10000.0,
        "linear_attn_config": {
            "full_attn_layers": list(_FULL_ATTENTION),
            "kda_layers": [n for n in range(1, 28) if n not in _FULL_ATTENTION],
            "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
        },
        "num_experts": experts, "num_experts_per_token": 8, "num_shared_experts": 1,
        "moe_intermediate_size": 1024, "moe_layer_freq": 1, "moe_renormalize": True,
        "moe_router_activation_func": "sigmoid", "first_k_dense_replace": 1,
        "num_expert_group": 1, "topk_group": 1, "use_grouped_topk": True,
        "routed_scaling_factor": 2.446, "num_nextn_predict_layers": 0,
        "model_max_length": 1048576, "max_position_embeddings": 1048576,
    }  # fmt: skip


def _qwen3_next(experts: int) -> dict[str, Any]:
    """config.json of Qwen/Qwen3-Next-80B-A3B-Instruct (512 experts)."""
    return _COMMON | {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
        "hidden_size": 2048, "num_hidden_layers": 48, "vocab_size": 151936,
        "intermediate_size": 5120, "num_attention_heads": 16, "num_key_value_heads": 2,
        "head_dim": 256, "full_attention_interval": 4, "partial_rotary_factor": 0.25,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        "num_experts": experts, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "norm_topk_prob": True,
        "mlp_only_layers": [], "decoder_sparse_step": 1, "max_position_embeddings": 262144,
    }  # fmt: skip


LAYOUTS: dict[str, dict[str, Any]] = {
    "kimi-linear-48b": _kimi_linear(256),
    "kimi-linear-quarter": _kimi_linear(64),
    "qwen3-next-quarter": _qwen3_next(128),
    "qwen3-next-eighth": _qwen3_next(64),
}


def model_directory(name: str, home: Path) -> tuple[str, tuple[str, ...]]:
    """What vLLM serves, and the arguments it needs: ``layout:NAME`` of `LAYOUTS` is made in
    ``home``, with the tiny models' tokenizer; anything else is taken as it is."""
    if not name.startswith(PREFIX):
        return name, ()
    layout = name.removeprefix(PREFIX)
    if layout not in LAYOUTS:
        raise SystemExit(f"no layout {layout!r}; known: {', '.join(LAYOUTS)}")
    directory = home / layout
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(LAYOUTS[layout], indent=1))
    tokenizer = ensure("gdn")
    for file in _TOKENIZER:
        if (tokenizer / file).exists():
            shutil.copy(tokenizer / file, directory / file)
    return str(directory), ENGINE_ARGS
