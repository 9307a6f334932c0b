"""Which caches count against the threshold."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_the_pd_clusters_cache_counts() -> None:
    assert decide("threshold", 1500, fleet(), cached={"p1": 499}).route is Route.OFFLOAD
    assert decide("threshold", 1500, fleet(), cached={"p1": 500}).route is Route.PD_P


def test_a_longer_prefix_elsewhere_counts_only_where_bandwidth_is_abundant() -> None:
    cached = {"e0": 1400, "p0": 600}
    scarce = decide("threshold", 1500, fleet(), cached=cached, bandwidth="scarce")
    assert scarce.route is Route.PD_P
    decision = decide("threshold", 1500, fleet(), cached=cached, bandwidth="abundant")
    assert decision.route is Route.OFFLOAD
    assert decision.reason == "longer prefix in a PrfaaS cluster, 1400 tokens against 600"


def test_unless_it_is_said_the_line_tells_whether_bandwidth_is_abundant() -> None:
    """800 tokens more: 90 KB, or 0.8 s of prefill here."""
    cached, view = {"e0": 1400, "p0": 600}, fleet()
    assert decide("threshold", 1500, view, cached=cached).route is Route.OFFLOAD
    view.links["east", "west"].outstanding_bytes = 1e6
    assert decide("threshold", 1500, view, cached=cached).route is Route.PD_P
    view.links["east", "west"].outstanding_bytes = 0.0
    view.links["east", "west"].rate.take(1e5, 0.0)
    assert decide("threshold", 1500, view, cached=cached).route is Route.PD_P
