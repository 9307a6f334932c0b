"""Where a model's config comes from: a file, the local Hugging Face cache, or the catalogue."""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict, naming, parse_yaml
from prfaas.models.geometry import auto_dtypes
from prfaas.models.geometry.attention import ATTENTION_MODELS
from prfaas.models.geometry.fields import Fields
from prfaas.models.geometry.hybrid import HYBRID_MODELS
from prfaas.models.geometry.latent import LATENT_MODELS
from prfaas.models.geometry.layers import ModelGeometry
from prfaas.models.geometry.refused import refusal

FAMILIES = ATTENTION_MODELS | LATENT_MODELS | HYBRID_MODELS


class CatalogueRow(Strict, frozen=True):
    """The fields of a published config that decide S_kv. ``layer_counts`` stands for a
    ``layer_types`` list whose order does not matter."""

    name: str
    repository: str
    source: str
    config: dict[str, Any]
    layer_counts: dict[str, int] = msgspec.field(default_factory=dict)
    note: str | None = None


class _Catalogue(Strict, frozen=True):
    models: list[CatalogueRow]


def geometry_of(
    config: Mapping[str, Any],
    *,
    name: str,
    source: str,
    note: str | None = None,
    dtype: str | None = None,
) -> ModelGeometry:
    """The geometry a ``config.json`` (already parsed) describes.

    Args:
        dtype: what the model is served in (vLLM's ``--dtype``); None: what ``auto`` would choose.
    Raises ConfigError that names the unknown model type, layer type or missing field.
    """
    with naming(name):
        fields = Fields(config)
        if reason := refusal(config, fields):
            raise fields.error(reason)
        family = FAMILIES.get(fields.model_type)
        if family is None:
            near = difflib.get_close_matches(fields.model_type, FAMILIES, n=3, cutoff=0.6)
            hint = f"; known and alike: {', '.join(near)}" if near else ""
            raise fields.error(f"is not known, and its KV cache would be a guess{hint}")
        layers = family(fields)
        model = dtype or auto_dtypes.model_dtype(config)
        latent = all("latent" in layer.kind for layer in layers)
        kv_dtype = auto_dtypes.kv_dtype(config, model, latent=latent)
        state_dtype = auto_dtypes.state_dtype(fields)
    return ModelGeometry(
        name=name,
        model_type=fields.model_type,
        layers=dict(Counter(layers)),
        model_dtype=model,
        kv_dtype=kv_dtype,
        state_dtype=state_dtype,
        source=source,
        note=note,
    )


@cache
def catalogue() -> dict[str, CatalogueRow]:
    """The built-in models by lower-case name."""
    text = resources.files("prfaas.models.geometry").joinpath("catalogue.yaml").read_bytes()
    rows = parse_yaml(text, _Catalogue, source="built-in catalogue").models
    return {row.name.lower(): row for row in rows}


def load_model(
    name: str, *, hub_cache: Path | None = None, dtype: str | None = None
) -> ModelGeometry:
    """The geometry of a model.

    Args:
        name: a ``config.json``, a directory that holds one, a model id in the local Hugging Face
            cache, or a name of the built-in catalogue (tried in this order).
        hub_cache: the Hugging Face cache; None: where ``HF_HUB_CACHE`` or ``HF_HOME`` say.
        dtype: what the model is served in (vLLM's ``--dtype``); None: what ``auto`` would choose.
    Raises ConfigError that says what was tried.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise ConfigError(
                f"{name} has no config.json; of a GGUF file or Mistral's own params.json, name the "
                "model in Hugging Face's form that it was made from"
            )
    if path.is_file():
        return _from_file(path, name=path.parent.name or str(path), dtype=dtype)
    if name.startswith(("/", "./", "../", "~")):
        raise ConfigError(f"{name}: no such file or directory")
    cached = _cached_config(name, hub_cache or _default_hub_cache())
    if cached is not None:
        return _from_file(cached, name=name, dtype=dtype)
    row = _catalogue_row(name)
    if row is None:
        near = difflib.get_close_matches(name.lower(), catalogue(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(catalogue()[n].name for n in near)}?" if near else ""
        raise ConfigError(
            f"model {name!r} is no config.json, not in the local Hugging Face cache and not in "
            f"the catalogue ('prfaas kv --list' shows it){hint}"
        )
    types = [kind for kind, count in row.layer_counts.items() for _ in range(count)]
    config = {**row.config, "layer_types": types} if types else row.config
    return geometry_of(config, name=row.name, source=row.source, note=row.note, dtype=dtype)


def _catalogue_row(name: str) -> CatalogueRow | None:
    by_repository = {row.repository.lower(): row for row in catalogue().values()}
    return catalogue().get(name.lower()) or by_repository.get(name.lower())


def _from_file(path: Path, *, name: str, dtype: str | None) -> ModelGeometry:
    config = _json_object(path)
    beside = path.with_name("hf_quant_config.json")
    # Where older modelopt checkpoints say how they were quantized.
    if "quantization_config" not in config and beside.is_file():
        config["quantization_config"] = {"quant_method": "modelopt", **_json_object(beside)}
    return geometry_of(config, name=name, source=str(path), dtype=dtype)


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a JSON object; is it a Hugging Face config.json?")
    return found


def _default_hub_cache() -> Path:
    if cache_dir := os.environ.get("HF_HUB_CACHE"):
        return Path(cache_dir)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "huggingface") / "hub"


def _cached_config(name: str, hub_cache: Path) -> Path | None:
    """``config.json`` of the snapshot that ``refs/main`` names, as huggingface_hub lays it out."""
    if name.count("/") != 1:
        return None
    model = hub_cache / f"models--{name.replace('/', '--')}"
    try:
        revision = (model / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    config = model / "snapshots" / revision / "config.json"
    return config if config.is_file() else None
