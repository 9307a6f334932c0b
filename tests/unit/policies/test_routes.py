"""From a side to a whole decision."""

from __future__ import annotations

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Route
from prfaas.policies.registry import POLICIES, make_policy
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import Record
from prfaas.testing.policy_views import decide, fleet


def test_no_line_means_local_and_no_prefill_engine_means_direct() -> None:
    view = fleet()
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
    decision = decide("threshold", 10_000, fleet(), cached={"d0": 9200, "e0": 9200, "p0": 6800})
    assert (decision.route, decision.decode_engine) == (Route.DIRECT, "d0")
    assert decision.reason == "uncached 800 <= threshold 1000, d0 holds 9200"
    stateless = decide("threshold", 10_000, fleet(), cached={"d0": 9200}, resumable={"d0": 0})
    assert stateless.route is Route.PD_P
    decision = decide("threshold", 10_000, fleet(), cached={"d0": 9200, "p0": 6900})
    assert (decision.route, decision.prefill_engine) == (Route.PD_P, "p0")
