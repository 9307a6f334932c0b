"""Two fixed conditions."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_cached_share_keeps_a_prompt_local() -> None:
    cached = {"d0": 1000, "d1": 1000}
    assert decide("static-length", 3200, fleet(), cached=cached).route is Route.PD_P
