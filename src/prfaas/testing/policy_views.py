"""A small hand-made view for policies to decide on: one cluster of each kind, one line."""

from __future__ import annotations

from typing import Any

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Decision
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.registry import make_policy, options_of
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import FleetState, Record
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology

TOPOLOGY = Topology(
    (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
    (
        EngineSpec("e0", "east", "prefill"),
        EngineSpec("p0", "west", "prefill"),
        EngineSpec("p1", "west", "prefill"),
        EngineSpec("d0", "west", "decode", 10),
        EngineSpec("d1", "west", "decode", 10),
    ),
    (LinkSpec("east", "west", 1e6, 0.02),),
    64,
)
COSTS = ProfileCosts(
    {
        spec.name: (lambda n: n / 4000.0) if spec.cluster == "east" else (lambda n: n / 1000.0)
        for spec in TOPOLOGY.engines
    },
    lambda n: 1e4 + 100.0 * n,
)


def fleet() -> FleetState:
    """A fresh one, idle."""
    return FleetState(TOPOLOGY, COSTS)


def decide(policy: str, tokens: int, view: FleetState, **config: Any) -> Decision:
    """What the policy says of one request at time 0; thresholds are 1000 unless ``config`` says
    otherwise, which may also give the request's ``cached`` and ``resumable``."""
    cached, resumable = config.pop("cached", {}), config.pop("resumable", {})
    if "threshold" in options_of(policy):
        config = {"threshold": 1000, **config}
    settings = SchedulerConfig(policy=policy, **config)
    record = Record(RequestArrived("r", tokens, 10, cached, resumable=resumable), 0, 0.0)
    decision = make_policy(settings).route(record, view, now=0.0)
    assert decision is not None
    return decision
