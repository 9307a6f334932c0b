"""Which engine of a cluster."""

from __future__ import annotations

from prfaas.testing.policy_views import decide, fleet


def test_placement_prefers_the_free_and_the_cached() -> None:
    view = fleet()
    view.engines["p0"].book(5000, 5.0, 0.0)
    assert decide("homogeneous", 500, view).prefill_engine == "p1"
    assert decide("homogeneous", 9000, view, cached={"p0": 8900}).prefill_engine == "p0"
    view.engines["d0"].assigned = 1
    assert decide("homogeneous", 500, view).decode_engine == "d1"
    assert decide("homogeneous", 500, view, cached={"d0": 448}).decode_engine == "d0"
