"""Which caches count against the threshold."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.testing.policy_views import decide, fleet


def test_the_pd_clusters_cache_counts() -> None:
    assert decide("threshold", 1500, fleet(), cached={"p1": 499}).route is Route.OFFLOAD
    assert decide("threshold", 1500, fleet(), cached={"p1": 500}).route is Route.PD_P


def test_a_longer_prefix_elsewhere_counts_only_where_bandwidth_is_abundant() -> None:
    cached = {"e0": 1400, "p0": 600}
    assert decide("threshold", 1500, fleet(), cached=cached).route is Route.PD_P
    decision = decide("threshold", 1500, fleet(), cached=cached, bandwidth="abundant")
    assert decision.route is Route.OFFLOAD
    assert decision.reason == "longer prefix in a PrfaaS cluster, 1400 tokens against 600"
