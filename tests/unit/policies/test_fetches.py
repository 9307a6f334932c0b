"""Policies count what it takes to load or pull a prefix; what it takes is learned."""

from __future__ import annotations

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.core.tiers import load_guess_s
from prfaas.policies.api import Decision, Route
from prfaas.policies.columns import Columns
from prfaas.policies.learned_fetches import LearnedFetches
from prfaas.policies.many_ways import ManyWays
from prfaas.policies.registry import POLICIES, make_policy
from prfaas.policies.route_choice import candidates
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import Record
from prfaas.testing.policy_views import COSTS, fleet


def asked(fetch_s: float, cached: int = 3000) -> Record:
    """Both prefill engines of the PD cluster could have it so."""
    names = ("p0", "p1")
    held = dict.fromkeys(names, cached)
    return Record(RequestArrived("r", 4000, 10, held, fetch_s=dict.fromkeys(names, fetch_s)), 0.0)


def decided(policy: str, fetch_s: float, view: FleetState) -> Decision:
    found = make_policy(SchedulerConfig(policy=policy)).route(asked(fetch_s), view, now=0.0)
    assert isinstance(found, Decision)
    return found


@pytest.mark.parametrize("policy", ["auto", "earliest"])
def test_a_prefix_is_fetched_where_that_is_sooner_than_computing_elsewhere(policy: str) -> None:
    view = fleet()
    for engine in view.engines.values():
        engine.up = engine.role == "prefill" or engine.name == "d0"
    for line in (view.link("east", "west"),):
        assert line is not None
        line.up = True
    # 1.0 s for the rest of the prompt beside the fetch; the other cluster computes it in 1.0 s.
    assert decided(policy, 0.01, view).route is not Route.DIRECT
    assert decided(policy, 0.01, view).prefill_engine in ("p0", "p1")
    assert decided(policy, 3.0, view).prefill_engine == "e0"


def test_all_ways_at_once_count_it_as_one_by_one() -> None:
    view = fleet()
    for engine in view.engines.values():
        engine.up = True
    request = asked(0.7)
    (home,) = view.pd_clusters
    one_by_one = sorted(w.ttft_s for w in candidates(request, view, home, 0.0, 0.0))
    import numpy as np

    at_once = sorted(w.ttft_s for w in ManyWays(request, view, np.zeros(1), 0.0))
    assert at_once == pytest.approx(one_by_one)
    assert isinstance(view.columns, Columns)
    assert COSTS.prefill_s("p0", 1000) + 0.7 in [pytest.approx(ttft) for ttft in at_once]


def test_a_fetch_is_believed_as_it_is_seen_and_outliers_are_not() -> None:
    fetches = LearnedFetches()
    assert fetches.fetch_s(0.2, "way") == 0.2
    for _ in range(30):
        fetches.seen("way", 0.2, 0.4)
        fetches.seen("way", 0.4, 0.6)
    assert fetches.fetch_s(0.2, "way") == pytest.approx(0.4, rel=0.02)  # 0.2 s more each
    fetches.seen("way", 0.2, 1000.0)
    assert fetches.fetch_s(0.2, "way") < 0.5
    again = LearnedFetches(fetches.learned())
    assert again.fetch_s(0.3, "way") == pytest.approx(fetches.fetch_s(0.3, "way"), rel=0.05)
    assert LearnedFetches({"way": (1.0, float("nan"))}).learned() == {}


def test_a_measured_rate_counts_and_else_the_usual_one() -> None:
    assert load_guess_s("memory", 1e9) < load_guess_s("disk", 1e9)
    assert load_guess_s("disk", 1e9, 5e8) == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("soonest", ["p0", "p1"])
def test_of_two_that_have_it_the_one_that_has_it_in_memory_computes(
    policy: str, soonest: str
) -> None:
    view = fleet()
    for engine in view.engines.values():
        engine.up = engine.name in ("p0", "p1", "d0")
    fetch_s = {"p0": 0.5, "p1": 0.5, soonest: 0.01}  # disk and memory
    held = dict.fromkeys(fetch_s, 3000)
    record = Record(RequestArrived("r", 4000, 10, held, fetch_s=fetch_s), 0.0)
    found = make_policy(SchedulerConfig(policy=policy)).route(record, view, now=0.0)
    assert isinstance(found, Decision)
    assert found.prefill_engine == soonest
