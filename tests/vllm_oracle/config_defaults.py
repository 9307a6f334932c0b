"""Prints what transformers' and vLLM's config classes default to, for the fields that decide S_kv.

    python tests/vllm_oracle/config_defaults.py > src/prfaas/models/geometry/config_defaults.yaml

A test compares the file with what this prints, so a new transformers or vLLM is noticed.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Iterator
from typing import Any

os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"

from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from vllm.model_executor.models import registry
from vllm.transformers_utils.config import _CONFIG_REGISTRY

# The fields that prfaas.models.geometry asks for.
FIELDS = """
    num_hidden_layers num_layers decoder_layers hidden_size d_model num_attention_heads
    decoder_attention_heads num_key_value_heads num_kv_heads head_dim attention_head_dim v_head_dim
    kv_lora_rank qk_rope_head_dim qk_nope_head_dim sliding_window use_sliding_window
    max_window_layers sliding_window_pattern layer_types attention_chunk_size
    no_rope_layer_interval no_rope_layers num_kv_shared_layers num_global_key_value_heads
    global_head_dim attention_k_eq_v swa_num_key_value_heads swa_head_dim swa_v_head_dim
    swa_num_attention_heads hybrid_layer_pattern attn_type_list index_head_dim index_topk
    index_topk_freq index_skip_topk_offset index_topk_pattern indexer_types index_kpool
    compress_ratios compress_rates first_k_dense_replace
    linear_num_key_heads linear_key_head_dim linear_num_value_heads linear_value_head_dim
    linear_conv_kernel_dim full_attention_interval linear_attn_config short_conv_kernel_size
    layer_group_size mamba_num_heads mamba_n_heads mamba_head_dim mamba_d_head mamba_headdim
    mamba_d_ssm mamba_expand expand mamba_d_state ssm_state_size state_size mamba_d_conv
    conv_kernel n_groups mamba_n_groups mamba_ngroups n_mamba_heads num_heads
    attn_layer_period attn_layer_offset attn_layer_indices layers_block_type
    hybrid_override_pattern hybrid_layer_ids full_attn_idxs conv_L_cache mamba_ssm_dtype
    mamba_ssm_cache_dtype global_attn_every_n_layers sliding_window_size swa_window_size
    new_decoder_architecture multi_query num_kv_heads n_head_kv multi_query_group_num
    attention_hidden_size use_bidirectional_attention is_causal num_nextn_predict_layers
    num_attention_groups share_q_dim attn_config intermediate_size moe_layer_start_index
    cross_attention_layers max_source_positions num_mtp_layers encoder_layers
    local_layer_ids rel_extent
""".split()
_ALIASED = {"num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads",
            "head_dim", "num_experts"}  # fmt: skip
_TEXT = ("thinker_config", "text_config", "llm_config", "language_config", "decoder_config")


def main() -> None:
    classes = known_classes()
    entries = {name: entry for name, cls in sorted(classes.items()) if (entry := describe(cls))}
    print("# Defaults of transformers' and vLLM's config classes, written by")
    print("# tests/vllm_oracle/config_defaults.py: do not edit.")
    for name, entry in entries.items():
        print(f"{json.dumps(name)}: {json.dumps(entry, sort_keys=True)}")


def known_classes() -> dict[str, type]:
    """Config classes by model type: of every architecture of vLLM's registry that transformers
    names, of vLLM's own, and of the text models inside them."""
    served = set(registry._VLLM_MODELS)
    found: dict[str, type] = {}
    for mapping in (m for m in dir(modeling_auto) if m.endswith("MAPPING_NAMES")):
        for model_type, names in getattr(modeling_auto, mapping).items():
            listed = {names} if isinstance(names, str) else set(names)
            if listed & served and model_type in CONFIG_MAPPING_NAMES:
                found[model_type] = CONFIG_MAPPING[model_type]
    found |= {model_type: _CONFIG_REGISTRY[model_type] for model_type in _CONFIG_REGISTRY}
    for cls in list(found.values()):
        while (nested := text_class(cls)) is not None:
            cls = nested[1]
            if cls.model_type in CONFIG_MAPPING_NAMES or text_class(cls) is not None:
                found.setdefault(cls.model_type, cls)
    return found


def text_class(cls: type) -> tuple[str, type] | None:
    """The field and the class of the text model inside a composite config."""
    subs = getattr(cls, "sub_configs", {})
    for name in _TEXT:
        sub = subs.get(name)
        if sub is None:
            continue
        if dataclasses.is_dataclass(sub):
            return name, sub
        if default := composite_default(cls, name):
            return name, default
    return None


def composite_default(cls: type, name: str) -> type | None:
    """The class that a composite config makes its text model of when the field is left out."""
    try:
        return type(getattr(cls(), name))
    except Exception:
        return None


def describe(cls: type) -> dict[str, Any]:
    """The defaults of one class: plain fields, other spellings, and the text model inside."""
    entry: dict[str, Any] = {}
    if (nested := text_class(cls)) is not None:
        text = {"field": nested[0], "model_type": nested[1].model_type}
        changed = text_defaults(cls, *nested)
        return {"text": text | ({"defaults": changed} if changed else {})}
    aliases = {k: v for k, v in getattr(cls, "attribute_map", {}).items() if k in _ALIASED}
    if aliases:
        entry["aliases"] = aliases
    defaults = described(cls)
    return entry | ({"defaults": defaults} if defaults else {})


def described(cls: type) -> dict[str, Any]:
    """The defaults of the fields that matter, under the class's own names."""
    wanted = {*FIELDS, *getattr(cls, "attribute_map", {}).values()}
    return {
        name: value
        for name, value in class_defaults(cls)
        if name in wanted and isinstance(value, int | float | str | list | tuple | None)
    }


def text_defaults(cls: type, field: str, text: type) -> dict[str, Any]:
    """Where a composite config has defaults of its own for its text model: all of them where the
    text model's type has no class outside it."""
    if text.model_type not in CONFIG_MAPPING_NAMES and text.model_type not in _CONFIG_REGISTRY:
        return {k: v for k, v in described(text).items() if v is not None}
    try:
        made = getattr(cls(**{field: {"model_type": text.model_type}}), field)
        plain = text()
    except Exception:
        return {}
    own, usual = vars(made), vars(plain)
    values = {name: (own.get(name), usual.get(name)) for name in FIELDS}
    return {
        name: here
        for name, (here, elsewhere) in values.items()
        if here != elsewhere and isinstance(here, int | float | str)
    }


def class_defaults(cls: type) -> Iterator[tuple[str, Any]]:
    """Fields of a data class, then the arguments of an ``__init__`` of its own."""
    for field in dataclasses.fields(cls):
        if field.default_factory is not dataclasses.MISSING:
            yield field.name, field.default_factory()
        else:
            yield field.name, field.default
    for parameter in inspect.signature(cls.__init__).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            yield parameter.name, parameter.default


if __name__ == "__main__":
    main()
