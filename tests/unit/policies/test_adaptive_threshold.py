"""A threshold that follows the waits."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.policies.adaptive_threshold import AdaptiveThresholdConfig, AdaptiveThresholdPolicy
from prfaas.testing.policy_views import fleet


def test_adaptive_threshold_follows_the_waits() -> None:
    view, policy = (
        fleet(),
        AdaptiveThresholdPolicy(AdaptiveThresholdConfig(threshold=1000, scale_s=5.0)),
    )
    policy.adjust(view, now=1.0)
    assert policy.threshold_tokens("west") == 1000
    view.engines["e0"].book(40_000, 10.0, 1.0)
    policy.adjust(view, now=1.0)
    assert policy.threshold_tokens("west") > 5000
    for name in ("p0", "p1"):
        view.engines[name].book(40_000, 20.0, 1.0)
    policy.adjust(view, now=1.0)
    assert policy.threshold_tokens("west") < 300


def test_adaptive_threshold_rises_when_the_same_bytes_wait_for_a_slower_line() -> None:
    view, policy = (
        fleet(),
        AdaptiveThresholdPolicy(AdaptiveThresholdConfig(threshold=1000, scale_s=5.0)),
    )
    line = view.links["east", "west"]
    line.outstanding_bytes = 2e6
    policy.adjust(view, now=1.0)
    before = policy.threshold_tokens("west")
    line.rate.take(0.2 * line.rate_bytes_per_s, 0.0)
    policy.adjust(view, now=2.0)
    assert policy.threshold_tokens("west") == pytest.approx(before * np.exp((10 - 2) / 5), rel=0.01)
