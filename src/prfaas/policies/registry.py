"""Policies by name, as the configuration and ``prfaas simulate --policy`` write them."""

from __future__ import annotations

from collections.abc import Callable

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import ConfigError
from prfaas.policies.api import Policy
from prfaas.policies.threshold import ThresholdPolicy


def _threshold(config: SchedulerConfig) -> Policy:
    return ThresholdPolicy(config.threshold_tokens, abundant=config.bandwidth == "abundant")


POLICIES: dict[str, Callable[[SchedulerConfig], Policy]] = {
    ThresholdPolicy.name: _threshold,
}


def make_policy(config: SchedulerConfig) -> Policy:
    """The policy that the configuration names. Raises ConfigError for an unknown name."""
    maker = POLICIES.get(config.policy)
    if maker is None:
        known = ", ".join(sorted(POLICIES))
        raise ConfigError(f"scheduler.policy {config.policy!r} is unknown; known: {known}")
    return maker(config)
