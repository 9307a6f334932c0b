"""Which layers attend to everything and which to a window, where a config has no ``layer_types``.

Each rule is that of the model type's own config class; a model type without one either has one
window for all layers or none. Where vLLM's code of a model type knows no windows per layer
(`UNIFORM`), a mixture means full attention for all.
"""

from __future__ import annotations

from collections.abc import Callable

from prfaas.models.geometry.fields import FULL, SLIDING, Fields, every

# One full layer closes so many, the others slide; the field that may say another period.
_PERIODS: dict[str, tuple[int, str]] = {
    "afmoe": (4, "global_attn_every_n_layers"),
    "cohere2": (4, "sliding_window_pattern"),
    "exaone4": (4, "sliding_window_pattern"),
    "exaone_moe": (4, "sliding_window_pattern"),
    "gemma2": (2, "sliding_window_pattern"),
    "gemma3_text": (6, "sliding_window_pattern"),
    "gemma3n_text": (5, ""),
    "gemma4_text": (6, ""),
    "gemma4_unified_text": (6, ""),
    "diffusion_gemma_text": (6, ""),
    "gpt_oss": (2, ""),
    "olmo3": (4, ""),
    "plamo3": (8, "sliding_window_pattern"),
    "vaultgemma": (2, ""),
}
_BY_INDEX = {"gpt_oss"}
"""vLLM's code of these counts layers, whatever ``layer_types`` says."""
_FULL_FIRST = {"cwm": 4, "granite_swa": 4, "granitemoe_swa": 4}
_FULL = {"cohere_compass_text", "laguna", "mellum"}
_FROM_LAYER = {
    "qwen2", "qwen3", "qwen2_moe", "mimo", "qwen2_vl_text", "qwen2_5_vl_text",
    "qwen2_5_omni_text",
}  # fmt: skip
_OFF_UNLESS_ASKED = _FROM_LAYER | {"qwen3_moe", "smollm3"}
UNIFORM = {"qwen2_moe", "mimo", "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text"}


def attention_types(fields: Fields) -> list[str]:
    """The attention type of every layer. Raises ConfigError where the config does not say."""
    types = fields.types("layer_types") if fields.model_type not in _BY_INDEX else None
    if types is None:
        types = _by_rule(fields)
    if fields.get("sliding_window") is None or _switched_off(fields):
        types = [FULL if name == SLIDING else name for name in types]
    mixed = len(set(types)) > 1
    return [FULL] * len(types) if mixed and fields.model_type in UNIFORM else types


def _switched_off(fields: Fields) -> bool:
    return not fields.get("use_sliding_window", fields.model_type not in _OFF_UNLESS_ASKED)


def _by_rule(fields: Fields) -> list[str]:
    model_type, layers = fields.model_type, fields.layers
    if rule := _RULES.get(model_type):
        return rule(fields)
    if model_type in _PERIODS:
        period, field = _PERIODS[model_type]
        letters = fields.get(field)
        if isinstance(letters, str) and letters:
            return _repeated(letters, layers)
        return every(fields.count(field, period), FULL, SLIDING, layers)
    if model_type in _FULL_FIRST:
        return [SLIDING if i % _FULL_FIRST[model_type] else FULL for i in range(layers)]
    if model_type in _FULL:
        return [FULL] * layers
    if model_type in _FROM_LAYER:
        first = fields.integer("max_window_layers") if fields.get("use_sliding_window") else layers
        return [FULL if i < first else SLIDING for i in range(layers)]
    return [SLIDING] * layers


def _repeated(letters: str, layers: int) -> list[str]:
    """Of a string such as ``LLLG``, over and over: L slides, except in the last layer."""
    named = [letters[i % len(letters)] for i in range(layers - 1)] + ["G"]
    return [SLIDING if letter == "L" else FULL for letter in named]


def _cohere2_moe(fields: Fields) -> list[str]:
    dense = fields.count("first_k_dense_replace", 0)
    prefix = fields.count("prefix_dense_sliding_window_pattern", 1)
    period = fields.integer("sliding_window_pattern")
    return every(prefix, FULL, SLIDING, dense) + every(period, FULL, SLIDING, fields.layers - dense)


def _no_rope(fields: Fields) -> list[str]:
    """SmolLM3: layers without a rotary embedding slide."""
    period = fields.count("no_rope_layer_interval", 4, least=1)
    rotary = fields.counts("no_rope_layers") or [(i + 1) % period for i in range(fields.layers)]
    return [FULL if uses_rotary else SLIDING for uses_rotary in rotary]


def _muse_glimmer(fields: Fields) -> list[str]:
    """Layers without a rotary embedding attend to everything: every fourth from the last."""
    last = fields.layers - 1
    rotary = fields.counts("no_rope_layers") or [(last - i) % 4 for i in range(fields.layers)]
    return [SLIDING if uses_rotary else FULL for uses_rotary in rotary]


def _step3p5(fields: Fields) -> list[str]:
    return [FULL if i % 2 else SLIDING for i in range(fields.layers)]


_RULES: dict[str, Callable[[Fields], list[str]]] = {
    "cohere2_moe": _cohere2_moe,
    "muse_glimmer_text": _muse_glimmer,
    "smollm3": _no_rope,
    "step3p5": _step3p5,
}
