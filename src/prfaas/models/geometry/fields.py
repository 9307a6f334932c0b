"""Reading a Hugging Face ``config.json``: fields by name, layer types by name, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prfaas.core.errors import ConfigError
from prfaas.models.geometry import layers as kv
from prfaas.models.geometry.layers import LayerCache

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

# What a config leaves out means what transformers' config class of the model type defaults to.
_HEAD_DIM = {
    "ernie4_5": 128, "gemma2": 256, "gemma3_text": 256, "gemma4_text": 256, "glm4": 128,
    "gpt_oss": 64, "llama4_text": 128, "mimo_v2_flash": 192, "minimax_m2": 128, "nemotron_h": 128,
    "qwen3": 128, "qwen3_5_moe_text": 256, "qwen3_5_text": 256, "qwen3_next": 256,
    "qwen3_vl_text": 128,
}  # fmt: skip
_AS_MANY_KV_HEADS = {
    "cohere2", "granite", "granitemoe", "granitemoehybrid", "llama", "olmo2", "olmo3",
    "olmo_hybrid", "phi3",
}  # fmt: skip


class Fields:
    """The text model's part of a config, asked by field name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        inner = config.get("text_config") or config.get("llm_config")
        self._fields = {**config, **inner} if isinstance(inner, Mapping) else {**config}
        model_type = self._fields.get("model_type")
        if not isinstance(model_type, str):
            raise ConfigError("the config has no 'model_type'; is it a Hugging Face config.json?")
        self.model_type = model_type

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or ``default`` where it is absent or null."""
        value = self._fields.get(name)
        return default if value is None else value

    def __contains__(self, name: str) -> bool:
        """Whether the config says anything of the field, be it null."""
        return name in self._fields

    def integer(self, *names: str) -> int:
        """The first of ``names`` that is there. Raises ConfigError if none is an integer."""
        for name in names:
            value = self._fields.get(name)
            if isinstance(value, int):
                return value
        raise self.error(f"the config has no integer {' or '.join(map(repr, names))}")

    def types(self, *names: str) -> list[str] | None:
        """A list with an entry for every layer, as strings, under the first of ``names`` that is
        there; a pattern string is one letter per layer. None where none is.

        Raises ConfigError where its length is not the number of layers.
        """
        for name in names:
            value = self.get(name)
            if value is None:
                continue
            types = [str(entry) for entry in value]
            # Some model types leave the number of layers to this list.
            if not types or ("num_hidden_layers" in self and len(types) < self.layers):
                raise self.error(f"{len(types)} entries in {name!r} for {self.layers} layers")
            return types[: self.layers] if "num_hidden_layers" in self else types
        return None

    def sub(self, name: str) -> Fields:
        """A nested block as fields of the same model. Raises ConfigError where it is missing."""
        block = self.get(name)
        if not isinstance(block, Mapping):
            raise self.error(f"the config has no block {name!r}")
        return Fields({"num_hidden_layers": self.layers, **block, "model_type": self.model_type})

    @property
    def layers(self) -> int:
        """The number of layers."""
        return self.integer("num_hidden_layers", "n_layer")

    def error(self, what: str) -> ConfigError:
        """An error that names the model type."""
        return ConfigError(f"model type {self.model_type!r}: {what}")


Family = Callable[[Fields], list[LayerCache]]
"""The caches of every layer of a model, in layer order (a layer with two caches gives two)."""


def by_type(
    fields: Fields, types: Sequence[str], known: Mapping[str, LayerCache | None]
) -> list[LayerCache]:
    """One cache per layer by its type's name; None in ``known`` for layers that keep nothing.

    Raises ConfigError that names a type not in ``known``.
    """
    for number, name in enumerate(types):
        if name not in known:
            raise fields.error(
                f"layer {number} has type {name!r}, which is not known; known: {', '.join(known)}"
            )
    return [cache for name in types if (cache := known[name]) is not None]


def every(period: int, rare: str, common: str, layers: int) -> list[str]:
    """``rare`` as the last of every ``period`` layers, ``common`` elsewhere."""
    return [rare if (i + 1) % period == 0 else common for i in range(layers)]


def head_dim(fields: Fields) -> int:
    """Width of an attention head."""
    given = fields.get("head_dim") or fields.get("attention_head_dim")
    if given is None:
        given = _HEAD_DIM.get(fields.model_type)
    if given is None:
        given = fields.integer("hidden_size") // fields.integer("num_attention_heads")
    return int(given)


def kv_heads(fields: Fields) -> int:
    """Heads that have keys and values of their own."""
    if fields.get("num_key_value_heads") is None and fields.model_type in _AS_MANY_KV_HEADS:
        return fields.integer("num_attention_heads")
    return fields.integer("num_key_value_heads")


def gqa(fields: Fields) -> LayerCache:
    """Full attention with the config's KV heads."""
    return kv.attention(kv_heads(fields), head_dim(fields), head_dim(fields))


def mla(fields: Fields) -> LayerCache:
    """Latent attention with the config's rank."""
    return kv.latent_attention(fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim"))


def indexer_modes(fields: Fields) -> list[str]:
    """Which layers run a sparse-attention indexer (``full``) and which reuse one (``shared``)."""
    types = fields.types("indexer_types", "index_topk_pattern")
    if types is not None:
        return types
    period = int(fields.get("index_topk_freq", 1))
    offset = int(fields.get("index_skip_topk_offset", 2))
    return ["shared" if max(i - offset + 1, 0) % period else "full" for i in range(fields.layers)]
