"""The cheapest route in time, refusal in overload, roles that follow the load."""

from __future__ import annotations

from typing import Any

import pytest

from prfaas.core.errors import ConfigError
from prfaas.policies.api import Decision, Refusal, RoleChange, Route
from prfaas.policies.auto import AutoPolicy
from prfaas.policies.auto_config import AutoConfig
from prfaas.policies.costs import LearnedCosts, ProfileCosts
from prfaas.policies.learned_prefills import LearnedPrefills
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import Record
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology
from prfaas.testing.policy_views import TOPOLOGY, fleet


def decide(
    view: FleetState, tokens: int, policy: AutoPolicy | None = None, **more: Any
) -> Decision | Refusal | None:
    request = Record(RequestArrived("r", tokens, 10, **more), 0.0)
    return (policy or AutoPolicy(AutoConfig())).route(request, view, now=0.0)


def route(view: FleetState, tokens: int, **more: Any) -> tuple[Route, str | None]:
    decision = decide(view, tokens, **more)
    assert isinstance(decision, Decision)
    return decision.route, decision.prefill_engine


def test_on_an_idle_deployment_the_soonest_route_is_taken() -> None:
    view = fleet()
    assert route(view, 8000) == (Route.OFFLOAD, "e0")
    assert route(view, 8000, cached={"p1": 7900}) == (Route.PD_P, "p1")
    view.links["east", "west"].rate.take(1e4, 0.0)
    assert route(view, 2000)[0] is not Route.OFFLOAD


def test_with_little_time_to_spare_a_long_queue_is_left_to_who_gains_most() -> None:
    view = fleet()
    for name in ("d0", "d1"):
        view.engines[name].running = 10
    for _ in range(6):
        view.engines["e0"].book(4000, 1.0, 0.0)
    for name in ("p0", "p1"):
        view.engines[name].book(6000, 5.4, 0.0)
    # Both sides are as busy; the short prompt would have its token a little sooner in the east.
    assert route(view, 1000)[0] is Route.PD_P
    assert route(view, 3000)[0] is Route.OFFLOAD


def test_what_cannot_be_in_time_is_refused_with_the_time_to_ask_again() -> None:
    view = fleet()
    for engine in view.engines.values():
        engine.book(50_000, 50.0, 0.0)
        engine.running = engine.max_requests
    refusal = decide(view, 1000)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after_s == pytest.approx(50.25 - 9.5, abs=0.1)
    assert "50.3 s" in refusal.reason


def test_a_deadline_before_the_slo_counts() -> None:
    view = fleet()
    assert isinstance(decide(view, 8000, deadline=1.0), Refusal)
    assert isinstance(decide(view, 8000, deadline=3.0), Decision)
    assert isinstance(decide(view, 8000, deadline=0.0), Refusal)


def test_what_takes_longer_than_the_slo_when_idle_is_served_all_the_same() -> None:
    view = fleet()
    assert isinstance(decide(view, 100_000), Decision)
    for engine in view.engines.values():
        engine.book(50_000, 50.0, 0.0)
    assert isinstance(decide(view, 100_000), Refusal)


def test_requests_that_wait_for_slots_count() -> None:
    view, policy = fleet(), AutoPolicy(AutoConfig())
    west = view.cluster("west")
    for engine in west.decode_engines:
        engine.running = engine.assigned = 10
    for second in range(300):
        west.completed = second
        policy.adjust(view, now=float(second))
    assert isinstance(decide(view, 1000, policy), Decision)
    west.decode_engines[0].assigned += 30
    assert isinstance(decide(view, 1000, policy), Refusal)


def test_no_decode_engine_means_no_route() -> None:
    view = fleet()
    view.engines["d0"].up = view.engines["d1"].up = False
    assert decide(view, 1000) is None


def test_decode_gets_an_engine_as_soon_as_it_needs_one() -> None:
    view, policy = fleet(), AutoPolicy(AutoConfig())
    for name in ("d0", "d1"):
        view.engines[name].running = 10
    view.engines["p0"].book(100, 5.0, 0.0)
    policy.adjust(view, now=0.0)
    [change] = policy.adjust(view, now=1.0)
    assert (change.engine, change.role) == ("p1", "decode")


def test_decode_takes_no_engine_for_its_ease_that_prefill_is_at_work_with() -> None:
    """Its slots are not all taken: a queue before prefill would be the price of room to spare."""
    for busy, roles in (((), ["decode"]), (("p0", "p1"), [])):
        view, policy = fleet(), AutoPolicy(AutoConfig())
        for name in busy:
            view.engines[name].book(100, 5.0, 0.0)
        for second in range(120):
            policy.adjust(view, now=float(second))
        for name in ("d0", "d1"):
            view.engines[name].running = 8
        assert [change.role for change in policy.adjust(view, now=120.0)] == roles


def test_an_engine_is_given_back_only_after_a_while_and_the_emptiest_first() -> None:
    view, policy = fleet(), AutoPolicy(AutoConfig())
    view.engines["d0"].assigned = 2
    changes: list[tuple[float, RoleChange]] = []
    for second in range(70):
        changes += [(float(second), c) for c in policy.adjust(view, now=float(second))]
    [(at, change)] = changes
    assert (at, change.engine, change.role) == (60.0, "d1", "prefill")


def test_engines_that_cannot_change_are_left_alone() -> None:
    view, policy = fleet(), AutoPolicy(AutoConfig())
    for engine in view.engines.values():
        engine.changes_role = False
        engine.running = engine.max_requests
    for second in range(200):
        assert list(policy.adjust(view, now=float(second))) == []


def test_a_time_without_a_unit_is_refused() -> None:
    with pytest.raises(ConfigError, match="unit"):
        AutoPolicy(AutoConfig(ttft="10"))


def test_the_near_cluster_answers_as_long_as_it_is_in_time() -> None:
    topology = Topology(
        (ClusterSpec("near", "pd"), ClusterSpec("far", "pd")),
        (EngineSpec("n", "near", "decode", 10), EngineSpec("f", "far", "decode", 10)),
        (),
        64,
        near="near",
    )
    costs = ProfileCosts({name: lambda tokens: tokens / 1000 for name in "nf"}, lambda tokens: 0.0)
    view = FleetState(topology, costs)
    view.engines["n"].book(5000, 5.0, 0.0)
    for tokens, engine in ((2000, "n"), (6000, "f")):
        decision = decide(view, tokens)
        assert isinstance(decision, Decision)
        assert decision.decode_engine == engine


def test_nobody_is_refused_by_a_guess() -> None:
    """Engines that still make kernels look late, and nothing else is known of them."""
    learned = LearnedPrefills(TOPOLOGY.cluster_of)
    view = FleetState(TOPOLOGY, LearnedCosts(learned, lambda start, end: end - start))
    for engine in view.engines.values():
        engine.book(50_000, 50.0, 0.0)
        engine.running = engine.max_requests
    assert isinstance(decide(view, 1000), Decision)
    for engine in view.engines:
        learned.prefill_seen(engine, 1000, 1.0)
    assert isinstance(decide(view, 1000), Refusal)


def with_a_line_that_crawls() -> FleetState:
    """No prefill engine of its own, two prompts on each decode engine, a line at 100 bytes/s."""
    view = fleet()
    view.links["east", "west"].rate.take(100.0, 0.0)
    for name in ("p0", "p1"):
        view.engines[name].up = False
    for name in ("d0", "d1"):
        view.engines[name].running = view.engines[name].assigned = 2
        for _ in range(2):
            view.engines[name].book(1000, 1.0, 0.0)
    return view


@pytest.mark.parametrize("deadline", [120.0, None])
def test_who_would_wait_for_a_crawling_line_is_prefilled_behind_two_others(
    deadline: float | None,
) -> None:
    """Whether or not there would be time for the line: that is how long an idle fleet takes."""
    view = with_a_line_that_crawls()
    decision = decide(view, 1000, deadline=deadline)
    assert isinstance(decision, Decision)
    assert (decision.route, decision.decode_engine) == (Route.DIRECT, "d0")


def test_half_of_the_slots_of_a_decode_engine_stay_for_hand_offs() -> None:
    view = with_a_line_that_crawls()
    served = 0
    while isinstance(decision := decide(view, 100, deadline=120.0), Decision):
        engine = view.engines[decision.decode_engine]
        engine.running, engine.assigned = engine.running + 1, engine.assigned + 1
        engine.book(100, 0.1, 0.0)
        served += 1
    assert served == 2 * (10 // 2 - 2)


def test_who_is_too_late_behind_others_is_told_when_to_ask_again() -> None:
    view = with_a_line_that_crawls()
    for name in ("d0", "d1"):
        view.engines[name].book(12_000, 12.0, 0.0)
    refusal = decide(view, 1000, deadline=120.0)
    assert isinstance(refusal, Refusal)
    assert 1.0 <= refusal.retry_after_s < 10.0
