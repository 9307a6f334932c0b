"""A small hand-made view for policies to decide on: one cluster of each kind, one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Decision
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.registry import make_policy, options_of
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import Record
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


def _prefill_s(tokens_per_s: float) -> Callable[[float], float]:
    return lambda tokens: tokens / tokens_per_s


COSTS = ProfileCosts(
    {
        spec.name: _prefill_s(4000.0 if spec.cluster == "east" else 1000.0)
        for spec in TOPOLOGY.engines
    },
    lambda tokens: 1e4 + 100.0 * tokens,
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
    record = Record(RequestArrived("r", tokens, 10, cached, resumable=resumable), 0.0)
    decision = make_policy(settings).route(record, view, now=0.0)
    assert isinstance(decision, Decision)
    return decision
