"""The least expected time to first token."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_earliest_weighs_queues_and_line() -> None:
    view = fleet()
    assert decide("earliest", 2000, view).route is Route.OFFLOAD
    view.engines["e0"].book(8000, 2.0, 0.0)
    assert decide("earliest", 2000, view).route is Route.PD_P
    assert decide("earliest", 6000, view).route is Route.OFFLOAD
    view.links["east", "west"].outstanding_bytes = 1e7
    assert decide("earliest", 6000, view).route is Route.PD_P
