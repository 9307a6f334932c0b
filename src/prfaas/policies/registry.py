"""Policies by name, as the configuration and ``prfaas simulate --policy`` write them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from math import isfinite
from typing import Any

import msgspec

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import ConfigError
from prfaas.core.strict import Strict
from prfaas.policies.adaptive import AdaptiveConfig, AdaptivePolicy
from prfaas.policies.adaptive_threshold import AdaptiveThresholdConfig, AdaptiveThresholdPolicy
from prfaas.policies.api import Policy
from prfaas.policies.auto import AutoPolicy
from prfaas.policies.auto_config import AutoConfig
from prfaas.policies.earliest import EarliestConfig, EarliestPolicy
from prfaas.policies.elastic import ElasticConfig, ElasticPolicy
from prfaas.policies.homogeneous import HomogeneousConfig, HomogeneousPolicy
from prfaas.policies.naive import NaiveConfig, NaivePolicy
from prfaas.policies.static_length import StaticLengthConfig, StaticLengthPolicy
from prfaas.policies.threshold import ThresholdConfig, ThresholdPolicy
from prfaas.policies.uncached_gate import UncachedGateConfig, UncachedGatePolicy

POLICIES: dict[str, tuple[type[Strict], Callable[[Any], Policy]]] = {
    "homogeneous": (HomogeneousConfig, HomogeneousPolicy),
    "naive": (NaiveConfig, NaivePolicy),
    "static-length": (StaticLengthConfig, StaticLengthPolicy),
    "uncached-gate": (UncachedGateConfig, UncachedGatePolicy),
    "threshold": (ThresholdConfig, ThresholdPolicy),
    "adaptive-threshold": (AdaptiveThresholdConfig, AdaptiveThresholdPolicy),
    "adaptive": (AdaptiveConfig, AdaptivePolicy),
    "earliest": (EarliestConfig, EarliestPolicy),
    "auto": (AutoConfig, AutoPolicy),
    "elastic": (ElasticConfig, ElasticPolicy),
}
"""Name -> the type of its options, and the policy, which takes one of these."""


def make_policy(config: SchedulerConfig) -> Policy:
    """The policy that the configuration names, with its options. Raises ConfigError, see
    `policy_config`."""
    _, policy = _row(config.policy)
    return policy(policy_config(config))


def policy_config(config: SchedulerConfig) -> Strict:
    """The options of the policy that the configuration names, in their own type, with defaults.
    Raises ConfigError for a policy that is unknown, an option that it does not have, or a value
    that the option cannot take."""
    kind, _ = _row(config.policy)
    given, known = config.policy_options(), options_of(config.policy)
    has = f"{config.policy} knows: {', '.join(known) or 'no options'}"
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}" if near else ""
            raise ConfigError(
                f"scheduler: policy {config.policy!r} does not use {key!r}{hint}; {has}"
            )
    for key, value in given.items():
        if isinstance(value, float) and not isfinite(value):
            raise ConfigError(f"scheduler: {key}: {value} is no number to compute with")
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"scheduler.options: {error}; {has}") from error


def options_of(policy: str) -> tuple[str, ...]:
    """The options that a policy has. Raises ConfigError where there is none of that name."""
    kind, _ = _row(policy)
    return tuple(field.name for field in msgspec.structs.fields(kind))


def for_policy(config: SchedulerConfig, policy: str) -> SchedulerConfig:
    """``config`` for another policy: of the options those that it has as well. Raises ConfigError
    where there is none of that name."""
    known = options_of(policy)
    kept = {key: value for key, value in config.policy_options().items() if key in known}
    return msgspec.structs.replace(
        config, policy=policy, threshold=None, bandwidth=None, options=kept
    )


def with_slo(config: SchedulerConfig, *, ttft: str) -> SchedulerConfig:
    """``config`` with this SLO where its policy has one and the configuration gives none. Raises
    ConfigError for an unknown policy."""
    if "ttft" not in options_of(config.policy) or "ttft" in config.options:
        return config
    return msgspec.structs.replace(config, options={**config.options, "ttft": ttft})


def _row(policy: str) -> tuple[type[Strict], Callable[[Any], Policy]]:
    if policy not in POLICIES:
        near = difflib.get_close_matches(policy, POLICIES, n=1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        known = ", ".join(sorted(POLICIES))
        raise ConfigError(f"scheduler.policy {policy!r} is unknown{hint}. Known: {known}")
    return POLICIES[policy]
