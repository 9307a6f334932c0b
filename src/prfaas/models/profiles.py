"""How fast one instance prefills and decodes, and where the numbers come from.

An *instance* is one model replica on its GPUs (the paper: 8 GPUs). Its profile is a small YAML
file (format: docs/planner.md), measured by the operator or built in:

    name: paper-1t-h200
    hardware: 8 x H200
    gpus: 8
    source: where the numbers were measured or published
    basis: published              # or measured, implied (by other figures), fit: shown as such
    model: Kimi-Linear-48B-A3B    # whose S_kv it goes with (optional; `prfaas kv --list`)
    prefill:
      interpolation: linear         # or log-log
      points: {1K: 0.44, 8K: 0.72}  # uncached tokens: seconds
    decode:
      points: {20: 0.025}           # sequences in the batch: seconds per step
    load:                             # a prompt whose KV lies ready: to its first token (optional)
      points: {1K: 0.02, 128K: 0.31}  # tokens: seconds
    kv: {constant: 172 MiB, per_token: 16.875 KiB}   # S_kv, where no model file gives it
    kv_tokens: 2M                     # tokens whose KV cache fits beside the weights (optional)
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal, overload

import msgspec

from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict, load_yaml, parse_yaml
from prfaas.core.units import parse_bytes, parse_tokens
from prfaas.models.geometry.models import load_model
from prfaas.models.interpolation import FloatArray, Interpolation, Table
from prfaas.models.kv_size import KvSize

Basis = Literal["measured", "published", "implied", "fit"]


class PrefillProfile:
    """T_prefill(l): seconds one instance takes for ``l`` uncached tokens."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def max_tokens(self) -> int:
        """The longest prompt the profile knows."""
        return int(self.table.covers_to)

    @overload
    def seconds(self, tokens: float) -> float: ...
    @overload
    def seconds(self, tokens: FloatArray) -> FloatArray: ...
    def seconds(self, tokens: float | FloatArray) -> float | FloatArray:
        """Seconds for ``tokens`` (a number, or an array of any shape: the same shape comes back).

        Raises ConfigError beyond the longest profiled prompt.
        """
        if isinstance(tokens, int | float):
            return self.table.at(tokens)
        return self.table.at_each(tokens)


class DecodeProfile:
    """T_decode(b): seconds of one decode step with ``b`` sequences in the batch."""

    def __init__(self, table: Table) -> None:
        self.table = table

    @property
    def max_batch(self) -> int:
        """The largest batch the profile knows."""
        return int(self.table.covers_to)

    def step_seconds(self, batch: float) -> float:
        """Below the first point the step takes as long as at it (weights dominate): never less.

        Raises ConfigError beyond the largest profiled batch.
        """
        return self.table.at(max(batch, self.table.covers_from))

    def batch_within(self, step_s: float) -> int:
        """BS_max: the largest profiled batch whose step takes at most ``step_s``; 0 if none."""
        allowed = (b for b in range(self.max_batch, 0, -1) if self.step_seconds(b) <= step_s + 1e-9)
        return next(allowed, 0)


class LoadProfile:
    """T_load(l): seconds from asking a decode engine for a prompt of ``l`` tokens whose KV lies
    ready in its agent to the first token: the pages' way into the cache, the tail, one step."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def seconds(self, tokens: float) -> float:
        """Beyond the last point on in its direction: bytes and tail, no attention."""
        table = self.table
        if tokens <= table.covers_to:
            return table.at(tokens)
        last = table.y[-1]
        slope = (last - table.y[-2]) / (table.x[-1] - table.x[-2]) if len(table.x) > 1 else 0.0
        return last + max(slope, 0.0) * (tokens - table.covers_to)


class InstanceProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One instance: its GPUs, its speeds, optionally S_kv of the model it was measured with."""

    name: str
    hardware: str
    gpus: int
    source: str
    basis: Basis
    note: str | None
    model: str | None
    """A model of the catalogue that the numbers belong to."""
    prefill: PrefillProfile | None
    decode: DecodeProfile | None
    kv: KvSize | None = None
    """As the file gives it; `kv_size` asks the model too."""
    load: LoadProfile | None = None
    """None: a hand-off is taken to cost the decode engine one step."""
    kv_tokens: int | None = None
    """Tokens whose KV cache fits beside the weights; None: not known."""

    @property
    def label(self) -> str:
        """The name as results show it: what was not measured says so."""
        return f"{self.name} ({self.basis})" if self.basis in ("implied", "fit") else self.name

    @property
    def prefill_or_refuse(self) -> PrefillProfile:
        """Raises ConfigError where the profile has no prefill table."""
        if self.prefill is None:
            raise ConfigError(f"profile {self.name!r} has no 'prefill' table; add one")
        return self.prefill

    @property
    def decode_or_refuse(self) -> DecodeProfile:
        """Raises ConfigError where the profile has no decode table."""
        if self.decode is None:
            raise ConfigError(f"profile {self.name!r} has no 'decode' table; add one")
        return self.decode

    def kv_size(
        self, *, kv_dtype: str | None = None, state_dtype: str | None = None
    ) -> KvSize | None:
        """S_kv as the file gives it, or of its model in these dtypes (None: the config's own).

        None where the file names neither. Raises ConfigError for a model that is not known.
        """
        if self.kv is None and self.model is not None:
            return load_model(self.model).kv_size(kv_dtype=kv_dtype, state_dtype=state_dtype)
        return self.kv


def common_kv_size(
    profiles: Iterable[InstanceProfile],
    *,
    kv_dtype: str | None = None,
    state_dtype: str | None = None,
) -> KvSize:
    """The S_kv that all profiles which know one agree on, in these dtypes.

    Raises ConfigError where none knows it or two differ.
    """
    sizes = {profile.kv_size(kv_dtype=kv_dtype, state_dtype=state_dtype) for profile in profiles}
    found = [size for size in sizes if size is not None]
    if len(found) != 1:
        why = "no profile says" if not found else "the profiles do not agree"
        raise ConfigError(
            f"S_kv: {why}; add 'model: NAME' or 'kv: {{constant: 174 MiB, per_token: 17 KiB}}' "
            "to every profile, or kv_size once to the model in the deployment file"
        )
    return found[0]


_MOST_SEQUENCES, _LONGEST = 1 << 20, 1 << 40
_LEAST_S, _MOST_S = 1e-9, 1e9
"""What is beyond them is a slip."""


class _Points(Strict, frozen=True):
    points: dict[str | int, float]
    interpolation: Interpolation = "linear"


class _Kv(Strict, frozen=True):
    constant: str
    per_token: str


class _ProfileFile(Strict, frozen=True):
    name: str
    hardware: str
    gpus: Annotated[int, msgspec.Meta(le=1 << 16)]
    source: str
    basis: Basis
    note: str | None = None
    model: str | None = None
    prefill: _Points | None = None
    decode: _Points | None = None
    load: _Points | None = None
    kv: _Kv | None = None
    kv_tokens: str | int | None = None


def built_in_profiles() -> list[str]:
    """Names that `load_profile` knows without a file."""
    found = resources.files("prfaas.models").joinpath("profiles_data").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in found)


def load_profile(name_or_path: str, *, beside: Path | None = None) -> InstanceProfile:
    """A built-in profile by name, or a profile file (ending in .yaml or .yml).

    Args:
        beside: the directory that a relative path starts from.
    Raises ConfigError for an unknown name or a bad file.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = (beside or Path()) / name_or_path
        return _from_file(load_yaml(path, _ProfileFile), source=str(path))
    if name_or_path not in built_in_profiles():
        raise ConfigError(
            f"no built-in profile {name_or_path!r}; write a path ending in .yaml or one of "
            + ", ".join(built_in_profiles())
        )
    text = resources.files("prfaas.models").joinpath(f"profiles_data/{name_or_path}.yaml")
    return parse_profile(text.read_bytes(), source=name_or_path)


def parse_profile(text: bytes | str, *, source: str) -> InstanceProfile:
    """A profile from the text of its file. Raises ConfigError."""
    return _from_file(parse_yaml(text, _ProfileFile, source=source), source=source)


def _from_file(file: _ProfileFile, *, source: str) -> InstanceProfile:
    if file.gpus < 1:
        raise ConfigError(f"{source}: gpus: {file.gpus}; an instance has at least one GPU")
    prefill = _table(file.prefill, f"{source}: prefill")
    decode = _table(file.decode, f"{source}: decode", longest=_MOST_SEQUENCES)
    load = _table(file.load, f"{source}: load")
    kv = file.kv
    return InstanceProfile(
        name=file.name,
        hardware=file.hardware,
        gpus=file.gpus,
        source=file.source,
        basis=file.basis,
        note=file.note,
        model=file.model,
        prefill=None if prefill is None else PrefillProfile(prefill),
        decode=None if decode is None else DecodeProfile(decode),
        kv=None if kv is None else KvSize(parse_bytes(kv.constant), parse_bytes(kv.per_token)),
        load=None if load is None else LoadProfile(load),
        kv_tokens=None if file.kv_tokens is None else parse_tokens(file.kv_tokens),
    )


def _table(points: _Points | None, what: str, *, longest: int = _LONGEST) -> Table | None:
    if points is None:
        return None
    x, y = [parse_tokens(key) for key in points.points], list(points.points.values())
    if not all(map(isfinite, y)):
        raise ConfigError(f"{what}: values must be finite: {y}")
    if max(x, default=0) > longest or not all(
        value <= 0 or _LEAST_S <= value <= _MOST_S for value in y
    ):
        raise ConfigError(
            f"{what}: points go up to {longest}, and take {_LEAST_S:g} to {_MOST_S:g} s: "
            f"{points.points}"
        )
    return Table(x, y, interpolation=points.interpolation, what=what)
