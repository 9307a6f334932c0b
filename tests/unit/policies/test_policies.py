"""What each policy decides, on small hand-made views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.errors import ConfigError
from prfaas.policies.adaptive import AdaptiveThresholdPolicy
from prfaas.policies.api import Decision, Route
from prfaas.policies.costs import LearnedCosts, ProfileCosts
from prfaas.policies.registry import POLICIES, make_policy
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import Record, Scene
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
        spec.name: lambda n, rate=4000.0 if spec.cluster == "east" else 1000.0: n / rate
        for spec in TOPOLOGY.engines
    },
    lambda n: 1e4 + 100.0 * n,
)


def scene() -> Scene:
    return Scene(TOPOLOGY, COSTS)


def decide(policy: str, tokens: int, view: Scene, **config: Any) -> Decision:
    cached, resumable = config.pop("cached", {}), config.pop("resumable", {})
    settings = SchedulerConfig(policy=policy, **{"threshold": 1000, **config})
    record = Record(RequestArrived("r", tokens, 10, cached, resumable=resumable), 0, 0.0)
    decision = make_policy(settings).route(record, view, now=0.0)
    assert decision is not None
    return decision


@pytest.mark.parametrize(
    ("policy", "tokens", "route"),
    [
        ("homogeneous", 9000, Route.PD_P),
        ("naive", 10, Route.OFFLOAD),
        ("static-length", 2048, Route.PD_P),
        ("static-length", 2049, Route.OFFLOAD),
        ("uncached-gate", 511, Route.PD_P),
        ("uncached-gate", 512, Route.OFFLOAD),
        ("threshold", 1000, Route.PD_P),
        ("threshold", 1001, Route.OFFLOAD),
        ("adaptive", 1001, Route.OFFLOAD),
    ],
)
def test_lengths_that_decide(policy: str, tokens: int, route: Route) -> None:
    assert decide(policy, tokens, scene()).route is route


def test_cached_share_keeps_a_prompt_local() -> None:
    cached = {"d0": 1000, "d1": 1000}
    assert decide("static-length", 3200, scene(), cached=cached).route is Route.PD_P


def test_no_line_means_local_and_no_prefill_engine_means_direct() -> None:
    view = scene()
    view.links["east", "west"].up = False
    assert decide("naive", 5000, view).route is Route.PD_P
    for name in ("p0", "p1"):
        view.engines[name].up = False
    assert decide("naive", 5000, view).route is Route.DIRECT
    for name in ("d0", "d1"):
        view.engines[name].up = False
    record = Record(RequestArrived("r", 5000, 10), 0, 0.0)
    for policy in POLICIES:
        assert make_policy(SchedulerConfig(policy=policy)).route(record, view, now=0.0) is None


def test_next_turn_stays_on_the_decode_engine_that_holds_the_conversation() -> None:
    decision = decide("threshold", 10_000, scene(), cached={"d0": 9200, "e0": 9200, "p0": 6800})
    assert (decision.route, decision.decode_engine) == (Route.DIRECT, "d0")
    assert decision.reason == "uncached 800 <= threshold 1000, d0 holds 9200"
    stateless = decide("threshold", 10_000, scene(), cached={"d0": 9200}, resumable={"d0": 0})
    assert stateless.route is Route.PD_P
    decision = decide("threshold", 10_000, scene(), cached={"d0": 9200, "p0": 6900})
    assert (decision.route, decision.prefill_engine) == (Route.PD_P, "p0")


def test_placement_prefers_the_free_and_the_cached() -> None:
    view = scene()
    view.engines["p0"].book(5000, 5.0, 0.0)
    assert decide("homogeneous", 500, view).prefill_engine == "p1"
    assert decide("homogeneous", 9000, view, cached={"p0": 8900}).prefill_engine == "p0"
    view.engines["d0"].assigned = 1
    assert decide("homogeneous", 500, view).decode_engine == "d1"
    assert decide("homogeneous", 500, view, cached={"d0": 448}).decode_engine == "d0"


def test_earliest_weighs_queues_and_line() -> None:
    view = scene()
    assert decide("earliest", 2000, view).route is Route.OFFLOAD
    view.engines["e0"].book(8000, 2.0, 0.0)
    assert decide("earliest", 2000, view).route is Route.PD_P
    assert decide("earliest", 6000, view).route is Route.OFFLOAD
    view.links["east", "west"].outstanding_bytes = 1e7
    assert decide("earliest", 6000, view).route is Route.PD_P


def test_elastic_prefills_on_a_decode_engine_with_time_to_spare() -> None:
    view = scene()
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(50_000, 50.0, 0.0)
    view.engines["d0"].running = 9
    view.engines["d1"].running = 5
    decision = decide("elastic", 2000, view)
    assert (decision.route, decision.decode_engine) == (Route.DIRECT, "d1")
    assert decide("earliest", 2000, view).route is not Route.DIRECT
    view.engines["d1"].running = 9
    assert decide("elastic", 2000, view).route is not Route.DIRECT


def test_adaptive_threshold_follows_the_waits() -> None:
    view, policy = scene(), AdaptiveThresholdPolicy(1000, scale_s=5.0, roles=False)
    policy.adjust(view, now=1.0)
    assert policy.threshold_tokens("west") == 1000
    view.engines["e0"].book(40_000, 10.0, 1.0)
    policy.adjust(view, now=1.0)
    assert policy.threshold_tokens("west") > 5000
    for name in ("p0", "p1"):
        view.engines[name].book(40_000, 20.0, 1.0)
    policy.adjust(view, now=1.0)
    assert policy.threshold_tokens("west") < 300


def test_adaptive_threshold_rises_when_the_same_bytes_wait_for_a_slower_line() -> None:
    view, policy = scene(), AdaptiveThresholdPolicy(1000, scale_s=5.0, roles=False)
    line = view.links["east", "west"]
    line.outstanding_bytes = 2e6
    policy.adjust(view, now=1.0)
    before = policy.threshold_tokens("west")
    line.rate_bytes_per_s *= 0.2
    policy.adjust(view, now=2.0)
    assert policy.threshold_tokens("west") == pytest.approx(before * np.exp((10 - 2) / 5), rel=0.01)


def test_adaptive_roles_change_when_called_for_twice() -> None:
    view, policy = scene(), AdaptiveThresholdPolicy(1000)
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
    view, policy = Scene(topology, COSTS), AdaptiveThresholdPolicy(1000, scale_s=5.0, roles=True)
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(40_000, 400.0, 0.0)
    assert policy.adjust(view, now=60.0) == []
    assert policy.threshold_tokens("west") < 1000 < policy.threshold_tokens("north")
    # North calls for nothing in between.
    [change] = policy.adjust(view, now=120.0)
    assert (change.engine, change.role) == ("d0", "prefill")


def test_adaptive_roles_are_those_of_engines_that_are_up() -> None:
    view, policy = scene(), AdaptiveThresholdPolicy(1000, roles=True)
    for name in ("e0", "p0", "p1"):
        view.engines[name].book(40_000, 400.0, 0.0)
    view.engines["d0"].up = False
    for now in (60.0, 120.0, 180.0):
        assert policy.adjust(view, now=now) == []


def test_costs_of_profiles() -> None:
    profiled = ProfileCosts({"e": lambda tokens: tokens / 10}, lambda tokens: 7 + tokens)
    assert profiled.prefill_s("e", 20) == 2.0
    assert profiled.kv_bytes(0, 10) == 17
    assert profiled.kv_bytes(4, 10) == 13


CLUSTERS = {"e0": "east", "p0": "west", "d0": "west"}


def learned() -> LearnedCosts:
    return LearnedCosts(CLUSTERS, lambda start, end: end - start)


@given(
    st.lists(st.integers(1, 200_000), min_size=2, max_size=200),
    st.floats(0, 1),
    st.floats(1e-6, 1e-2),
)
def test_a_prefill_time_linear_in_the_tokens_is_learned(
    lengths: list[int], offset_s: float, s_per_token: float
) -> None:
    costs = learned()
    for tokens in lengths:
        costs.prefill_seen("p0", tokens, offset_s + s_per_token * tokens)
    mean = sum(lengths) // len(lengths)
    recent = lengths[-1] if len(set(lengths)) == 1 else mean
    wanted = offset_s + s_per_token * recent
    assert costs.prefill_s("p0", recent) == pytest.approx(wanted, rel=0.02, abs=1e-9)


def test_prompts_that_end_in_one_step_count_together() -> None:
    costs = learned()
    for _ in range(10):
        costs.prefill_seen("p0", 500, 0.1)
        costs.prefill_seen("p0", 500, 0.0)
    assert costs.prefill_s("p0", 1000) == pytest.approx(0.1, rel=0.01)


def test_an_engine_not_seen_counts_as_its_peers_and_a_cluster_not_seen_as_faster() -> None:
    costs = learned()
    assert costs.prefill_s("e0", 10_000) == costs.prefill_s("p0", 10_000) > 0
    costs.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("p0", 1000) == costs.prefill_s("d0", 1000) == 0.5
    assert costs.prefill_s("e0", 1000) < 0.5


def test_what_was_seen_is_forgotten_where_others_get_all_the_work() -> None:
    costs = learned()
    costs.prefill_seen("e0", 1000, 30.0)
    assert costs.prefill_s("e0", 1000) == 30.0
    for _ in range(300):
        costs.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("e0", 1000) == pytest.approx(0.25)


def test_what_is_long_forgotten_makes_nobody_free() -> None:
    """Sums that have faded to nothing say nothing, not that prefill takes no time."""
    costs = learned()
    costs.prefill_seen("e0", 1000, 1e-9)
    for _ in range(73_000):
        costs.prefill_seen("p0", 1000, 0.5)
    assert costs.prefill_s("e0", 1000) == pytest.approx(0.25)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'elastic'"):
        make_policy(SchedulerConfig(policy="elastik"))
    with pytest.raises(ConfigError, match="earliest knows: margin"):
        make_policy(SchedulerConfig(policy="earliest", options={"margn": 1.0}))
