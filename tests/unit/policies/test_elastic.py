"""Decode engines prefill beside their batch."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_elastic_prefills_on_a_decode_engine_with_time_to_spare() -> None:
    view = fleet()
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(50_000, 50.0, 0.0)
    view.engines["d0"].running = 9
    view.engines["d1"].running = 5
    decision = decide("elastic", 2000, view)
    assert (decision.route, decision.decode_engine) == (Route.DIRECT, "d1")
    assert decide("earliest", 2000, view).route is not Route.DIRECT
    view.engines["d1"].running = 9
    assert decide("elastic", 2000, view).route is not Route.DIRECT
