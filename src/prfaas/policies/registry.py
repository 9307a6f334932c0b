"""Policies by name, as the configuration and ``prfaas simulate --policy`` write them.

A policy's own settings stand under ``scheduler.options``; each row here says which it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Annotated

import msgspec

from prfaas.core.deployment import SchedulerConfig, Strict
from prfaas.core.errors import ConfigError
from prfaas.policies.adaptive import AdaptiveThresholdPolicy
from prfaas.policies.api import Policy
from prfaas.policies.homogeneous import FixedSidePolicy
from prfaas.policies.earliest import EarliestCompletionPolicy
from prfaas.policies.static_length import StaticLengthPolicy, UncachedGatePolicy
from prfaas.policies.threshold import ThresholdPolicy

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _NoOptions(Strict, frozen=True):
    pass


class _StaticLength(Strict, frozen=True):
    tokens: int = 2048
    ratio: float = 0.7


class _UncachedGate(Strict, frozen=True):
    tokens: int = 512


class _Adaptive(Strict, frozen=True):
    period_s: _Positive = 1.0
    scale_s: _Positive = 30.0
    role_period_s: _Positive = 60.0
    wait_s: float = 10.0
    roles: bool = True


class _Earliest(Strict, frozen=True):
    margin: float = 0.02


class _Elastic(Strict, frozen=True):
    margin: float = 0.02
    min_share: _Positive = 0.15
    max_direct: int = 2


def _threshold(config: SchedulerConfig, options: Strict) -> Policy:
    return ThresholdPolicy(config.threshold_tokens, abundant=config.bandwidth == "abundant")


def _adaptive(config: SchedulerConfig, options: Strict) -> Policy:
    abundant = config.bandwidth == "abundant"
    return AdaptiveThresholdPolicy(
        config.threshold_tokens, abundant=abundant, **msgspec.structs.asdict(options)
    )


_Maker = Callable[[SchedulerConfig, Strict], Policy]
POLICIES: dict[str, tuple[type[Strict], _Maker]] = {
    "homogeneous": (_NoOptions, lambda config, options: FixedSidePolicy(offloads=False)),
    "naive": (_NoOptions, lambda config, options: FixedSidePolicy(offloads=True)),
    "static-length": (
        _StaticLength,
        lambda config, options: StaticLengthPolicy(**msgspec.structs.asdict(options)),
    ),
    "uncached-gate": (
        _UncachedGate,
        lambda config, options: UncachedGatePolicy(**msgspec.structs.asdict(options)),
    ),
    "threshold": (_NoOptions, _threshold),
    "adaptive": (_Adaptive, _adaptive),
    "earliest": (
        _Earliest,
        lambda config, options: EarliestCompletionPolicy(**msgspec.structs.asdict(options)),
    ),
    "elastic": (
        _Elastic,
        lambda config, options: EarliestCompletionPolicy(
            **msgspec.structs.asdict(options), elastic=True
        ),
    ),
}


def make_policy(config: SchedulerConfig) -> Policy:
    """The policy that the configuration names, with its options. Raises ConfigError."""
    if config.policy not in POLICIES:
        near = difflib.get_close_matches(config.policy, POLICIES, n=1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        known = ", ".join(sorted(POLICIES))
        raise ConfigError(f"scheduler.policy {config.policy!r} is unknown{hint}. Known: {known}")
    kind, maker = POLICIES[config.policy]
    try:
        options = msgspec.convert(config.options, kind)
    except msgspec.ValidationError as error:
        known = ", ".join(f.name for f in msgspec.structs.fields(kind)) or "none"
        raise ConfigError(f"scheduler.options: {error}; {config.policy} knows: {known}") from error
    return maker(config, options)
