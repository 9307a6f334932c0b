"""The profiles that a description names, and S_kv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prfaas.core.deployment import ModelConfig
from prfaas.core.errors import ConfigError
from prfaas.core.strict import naming
from prfaas.core.units import parse_bytes
from prfaas.models.geometry.models import load_model
from prfaas.models.kv_size import KvSize
from prfaas.models.profiles import InstanceProfile, common_kv_size


def kv_size_of(model: ModelConfig, profiles: Iterable[InstanceProfile], *, beside: Path) -> KvSize:
    """The bytes of a hand-off: as the file says, as profiles have measured it, of the model's
    config, or as the profiles say otherwise.

    Args:
        beside: where a relative path to a model starts.
    Raises ConfigError where nothing says it, or profiles differ.
    """
    known = list(profiles)
    if model.kv_size is not None:
        with naming("model.kv_size"):
            size = model.kv_size
            return KvSize(parse_bytes(str(size.constant)), parse_bytes(str(size.per_token)))
    # What running engines were seen to hold is true whatever the file's path leads to from here.
    measured = all(profile.basis == "measured" and profile.kv is not None for profile in known)
    if model.path is not None and not measured:
        local = beside / model.path
        found = load_model(str(local) if local.exists() else model.path)
        return found.kv_size(kv_dtype=model.kv_dtype, state_dtype=model.state_dtype)
    return common_kv_size(known, kv_dtype=model.kv_dtype, state_dtype=model.state_dtype)


def check_longest(where: str, profile: InstanceProfile, longest: float) -> None:
    """Raises ConfigError where a profile ends below the workload's ``longest`` prompt."""
    covered = profile.prefill_or_refuse.max_tokens
    if longest > covered:
        raise ConfigError(
            f"{where}: profile {profile.name!r} ends at {covered} tokens, the workload's prompts "
            f"reach {longest:.0f}; measure a longer prompt and add the point, or shorten the "
            f"workload (a trace: with --clip {covered})"
        )
