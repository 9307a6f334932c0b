"""Reading a Hugging Face ``config.json``: fields by name, layer types by name, nothing guessed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prfaas.core.errors import ConfigError
from prfaas.core.geometry import layers as kv
from prfaas.core.geometry.layers import LayerCache

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


class Fields:
    """The text model's part of a config, asked by field name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        inner = config.get("text_config") or config.get("llm_config")
        self._fields = {**inner} if isinstance(inner, Mapping) else {**config}
        model_type = self._fields.get("model_type") or config.get("model_type")
        if not isinstance(model_type, str):
            raise ConfigError("the config has no 'model_type'; is it a Hugging Face config.json?")
        self.model_type = model_type

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or ``default`` where it is absent or null."""
        value = self._fields.get(name)
        return default if value is None else value

    def integer(self, *names: str) -> int:
        """The first of ``names`` that is there. Raises ConfigError if none is an integer."""
        for name in names:
            value = self._fields.get(name)
            if isinstance(value, int):
                return value
        wanted = " or ".join(repr(name) for name in names)
        raise ConfigError(f"model type {self.model_type!r}: the config has no integer {wanted}")

    def sub(self, name: str) -> Fields:
        """A nested block as fields of the same model. Raises ConfigError where it is missing."""
        block = self.get(name)
        if not isinstance(block, Mapping):
            raise ConfigError(f"model type {self.model_type!r}: the config has no block {name!r}")
        return Fields({"model_type": self.model_type, **block})

    @property
    def layers(self) -> int:
        return self.integer("num_hidden_layers", "n_layer")


Family = Callable[[Fields], list[LayerCache]]
"""The caches of every layer of a model, in layer order (a layer with two caches gives two)."""


def by_type(
    fields: Fields, types: Sequence[str], known: Mapping[str, LayerCache | None]
) -> list[LayerCache]:
    """One cache per layer by its type's name; None in ``known`` for layers that keep nothing."""
    for number, name in enumerate(types):
        if name not in known:
            raise ConfigError(
                f"model type {fields.model_type!r}: layer {number} has type {name!r}, "
                f"which is not known; known: {', '.join(known)}"
            )
    return [cache for name in types if (cache := known[name]) is not None]


def every(period: int, rare: str, common: str, layers: int) -> list[str]:
    return [rare if (i + 1) % period == 0 else common for i in range(layers)]


def head_dim(fields: Fields, default: int | None = None) -> int:
    heads = fields.integer("num_attention_heads", "n_head")
    return int(
        fields.get("head_dim")
        or fields.get("attention_head_dim")
        or default
        or fields.integer("hidden_size", "n_embd") // heads
    )


def kv_heads(fields: Fields) -> int:
    return int(fields.get("num_key_value_heads") or fields.integer("num_attention_heads"))


def gqa(fields: Fields, head_dim_default: int | None = None) -> LayerCache:
    dim = head_dim(fields, head_dim_default)
    return kv.attention(kv_heads(fields), dim, dim)


def mla(fields: Fields) -> LayerCache:
    return kv.latent_attention(fields.integer("kv_lora_rank"), fields.integer("qk_rope_head_dim"))
