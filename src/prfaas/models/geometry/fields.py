"""Reading a Hugging Face ``config.json``: fields by name, layer types by name, nothing guessed.

A field that the config leaves out has the default of the model type's config class, as it has
when vLLM loads the config. A field that neither knows is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prfaas.core.errors import ConfigError
from prfaas.models.geometry import layers as kv
from prfaas.models.geometry.config_classes import UNKNOWN, config_classes
from prfaas.models.geometry.layers import LayerCache

FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"

_TEXT_BLOCKS = ("thinker_config", "text_config", "llm_config", "language_config")
_FLAT_ON_THE_HUB = frozenset({"paddleocr_vl", "qwen2_5_vl", "qwen2_vl"})
"""Their checkpoints have the text model's fields beside all others, where the config class takes
them from if there is no block for them."""


class Fields:
    """The text model's part of a config, asked by field name."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._fields, self.model_type = _text_model(config)
        self._class = config_classes().get(self.model_type, UNKNOWN)

    def may_be_null(self, *names: str) -> bool:
        """Whether the model type's class is known and has no default for any of ``names``."""
        known = self._class is not UNKNOWN
        return known and all(self._class.defaults.get(name) is None for name in names)

    def value(self, name: str) -> Any:
        """What the config says of the field, else its class's default; None where neither does."""
        own = self._class.aliases.get(name, name)
        for spelling in (name, own):
            if spelling in self._fields:
                return self._fields[spelling]
        return self._class.defaults.get(own)

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or ``default`` where it is absent or null."""
        value = self.value(name)
        return default if value is None else value

    def __contains__(self, name: str) -> bool:
        """Whether the config or its class says anything of the field, be it null."""
        own = self._class.aliases.get(name, name)
        return name in self._fields or own in self._fields or own in self._class.defaults

    def integer(self, *names: str, least: int = 0) -> int:
        """The first of ``names`` that is there and not null.

        Raises ConfigError if none is, or if it is no integer of at least ``least``.
        """
        for name in names:
            value = self.value(name)
            if value is not None:
                return self._checked(name, value, least)
        raise self.error(f"the config has no integer {' or '.join(map(repr, names))}")

    def count(self, name: str, default: int, *, least: int = 0) -> int:
        """The field, or ``default`` where it is absent or null. Raises ConfigError as `integer`."""
        value = self.value(name)
        return default if value is None else self._checked(name, value, least)

    def counts(self, name: str) -> list[int] | None:
        """A list of integers; None where it is absent or null. Raises ConfigError."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self.error(f"{name!r} must be a list of integers, not {value!r}")
        return [self._checked(name, entry, 0) for entry in value]

    def factor(self, *names: str, default: float) -> float:
        """A number above zero: the first of ``names`` that is there. Raises ConfigError."""
        for name in names:
            value = self.value(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise self.error(f"{name!r} must be a number above zero, not {value!r}")
            return float(value)
        return default

    def _checked(self, name: str, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.error(f"{name!r} must be an integer of at least {least}, not {value!r}")
        return value

    def types(self, *names: str) -> list[str] | None:
        """A list with an entry for every layer, as strings, under the first of ``names`` that is
        there; a pattern string is one letter per layer. None where none is.

        Raises ConfigError where its length is not the number of layers.
        """
        for name in names:
            value = self.get(name)
            if value is None:
                continue
            if not isinstance(value, list | tuple | str):
                raise self.error(f"{name!r} must be a list with an entry per layer, not {value!r}")
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
        return self.integer("num_hidden_layers", "n_layer", "num_layers", least=1)

    def error(self, what: str) -> ConfigError:
        """An error that names the model type."""
        return ConfigError(f"model type {self.model_type!r}: {what}")


def _text_model(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields of the text model inside a config of any nesting, and its model type."""
    fields, model_type = {**config}, config.get("model_type")
    while True:
        known = (
            config_classes().get(model_type, UNKNOWN) if isinstance(model_type, str) else UNKNOWN
        )
        block = next((b for b in _TEXT_BLOCKS if isinstance(fields.get(b), Mapping)), None)
        if block is None:
            break
        fields = {**fields[block]}
        if known.text is not None:
            fields = {**known.text.defaults, "model_type": known.text.model_type, **fields}
        model_type = fields.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError("the config has no 'model_type'; is it a Hugging Face config.json?")
    if known.text is not None and model_type in _FLAT_ON_THE_HUB:
        text = known.text
        return {**text.defaults, **fields, "model_type": text.model_type}, text.model_type
    if known.text is not None:
        raise ConfigError(
            f"model type {model_type!r}: the config has no block {known.text.field!r}"
        )
    return fields, model_type


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
    """``rare`` as the last of every ``period`` layers, ``common`` elsewhere; 0: always rare."""
    if period < 1:
        return [rare] * layers
    return [rare if (i + 1) % period == 0 else common for i in range(layers)]


def head_dim(fields: Fields) -> int:
    """Width of an attention head."""
    for name in ("head_dim", "attention_head_dim", "kv_channels"):
        if given := fields.count(name, 0):
            return given
    return fields.integer("hidden_size") // fields.integer("num_attention_heads", least=1)


_KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_head_kv",
    "multi_query_group_num",
    "num_attention_groups",
)


def kv_heads(fields: Fields) -> int:
    """Heads that have keys and values of their own.

    A class that has no such field, or whose default for it is null, means as many as heads.
    """
    for name in _KV_HEADS:
        if fields.value(name) is not None:
            return fields.integer(name, least=1)
    if fields.may_be_null(*_KV_HEADS):
        return fields.integer("num_attention_heads")
    return fields.integer(_KV_HEADS[0])


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
        return [{"F": "full", "S": "shared"}.get(mode, mode) for mode in types]
    period = max(fields.count("index_topk_freq", 1), 1)
    offset = fields.count("index_skip_topk_offset", 2)
    return ["shared" if max(i - offset + 1, 0) % period else "full" for i in range(fields.layers)]
