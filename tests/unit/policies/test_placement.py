"""Which engine of a cluster."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_what_engines_hold_that_are_down_or_drained_counts_for_nobody() -> None:
    view = fleet()
    held = {"d0": 8900}
    assert decide("threshold", 9000, view, threshold=1000, cached=held).route is not Route.OFFLOAD
    view.engines["d0"].up = False
    found = decide("threshold", 9000, view, threshold=1000, cached=held)
    assert found.route is Route.OFFLOAD
    assert "uncached 9000" in found.reason


def test_placement_prefers_the_free_and_the_cached() -> None:
    view = fleet()
    view.engines["p0"].book(5000, 5.0, 0.0)
    assert decide("homogeneous", 500, view).prefill_engine == "p1"
    assert decide("homogeneous", 9000, view, cached={"p0": 8900}).prefill_engine == "p0"
    view.engines["d0"].assigned = 1
    assert decide("homogeneous", 500, view).decode_engine == "d1"
    assert decide("homogeneous", 500, view, cached={"d0": 448}).decode_engine == "d0"
