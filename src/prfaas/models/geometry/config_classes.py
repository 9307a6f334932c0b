"""What a ``config.json`` leaves out: defaults and other spellings of transformers' config classes.

The data file is written by ``tests/vllm_oracle/config_defaults.py`` from the installed
transformers and vLLM, so neither is needed to read a config.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import msgspec

from prfaas.core.strict import parse_yaml


class TextModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a composite config keeps its text model, the model type it has there, and what it
    defaults to there and nowhere else."""

    field: str
    model_type: str
    defaults: dict[str, Any] = {}


class ConfigClass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The config class of one model type.

    ``aliases``: the name that the class itself uses for a field's usual name. ``defaults``: by the
    class's own names; None is a default that the class works out from other fields.
    """

    aliases: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    text: TextModel | None = None


UNKNOWN = ConfigClass()
"""Of a model type whose class comes with its checkpoint: nothing is known of its defaults."""


@cache
def config_classes() -> dict[str, ConfigClass]:
    """Config classes by model type."""
    text = resources.files("prfaas.models.geometry").joinpath("config_defaults.yaml").read_bytes()
    return parse_yaml(text, dict[str, ConfigClass], source="built-in config defaults")
