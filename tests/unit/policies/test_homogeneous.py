"""Everything stays in the PD cluster."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_the_longest_prompt_stays() -> None:
    decision = decide("homogeneous", 100_000, fleet())
    assert (decision.route, decision.prefill_engine) == (Route.PD_P, "p0")
