"""Roles that follow the load."""

from __future__ import annotations

from prfaas.policies.adaptive import AdaptiveConfig, AdaptivePolicy
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.policy_views import COSTS, TOPOLOGY, fleet


def test_adaptive_roles_change_when_called_for_twice() -> None:
    view, policy = fleet(), AdaptivePolicy(AdaptiveConfig(threshold=1000))
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(40_000, 400.0, 0.0)
    assert policy.adjust(view, now=60.0) == []
    [change] = policy.adjust(view, now=120.0)
    assert (change.engine, change.role) == ("d0", "prefill")
    assert policy.adjust(view, now=180.0) == []


def test_adaptive_looks_at_each_pd_cluster_by_itself() -> None:
    topology = Topology(
        (*TOPOLOGY.clusters, ClusterSpec("north", "pd")),
        (*TOPOLOGY.engines, EngineSpec("p2", "north", "prefill")),
        (*TOPOLOGY.links, LinkSpec("east", "north", 1e6, 0.02)),
        64,
    )
    view, policy = (
        FleetState(topology, COSTS),
        AdaptivePolicy(AdaptiveConfig(threshold=1000, scale_s=5.0)),
    )
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(40_000, 400.0, 0.0)
    assert policy.adjust(view, now=60.0) == []
    assert policy.threshold_tokens("west") < 1000 < policy.threshold_tokens("north")
    # North calls for nothing in between.
    [change] = policy.adjust(view, now=120.0)
    assert (change.engine, change.role) == ("d0", "prefill")


def test_adaptive_roles_are_those_of_engines_that_are_up() -> None:
    view, policy = fleet(), AdaptivePolicy(AdaptiveConfig(threshold=1000))
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(40_000, 400.0, 0.0)
    view.engines["d0"].up = False
    for now in (60.0, 120.0, 180.0):
        assert policy.adjust(view, now=now) == []
