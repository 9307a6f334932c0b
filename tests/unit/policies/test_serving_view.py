"""Policies are shown the engines alone that serve a request."""

from __future__ import annotations

import itertools

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Decision
from prfaas.policies.registry import POLICIES, for_policy, make_policy
from prfaas.policies.serving_view import ServingView
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.state import Record
from prfaas.testing.policy_views import TOPOLOGY, fleet

ENGINES = [spec.name for spec in TOPOLOGY.engines]
SOME = [
    frozenset(some)
    for count in range(len(ENGINES) + 1)
    for some in itertools.combinations(ENGINES, count)
]


def test_there_is_nothing_but_the_engines_that_serve_it() -> None:
    view = ServingView(fleet(), frozenset({"e0", "p1", "d1"}))
    assert list(view.engines) == ["e0", "p1", "d1"]
    assert [cluster.name for cluster in view.clusters] == ["east", "west"]
    [west], [east] = view.pd_clusters, view.prfaas_clusters
    assert [engine.name for engine in west.engines] == ["p1", "d1"]
    assert [engine.name for engine in west.prefill_engines] == ["p1"]
    assert [engine.name for engine in west.decode_engines] == ["d1"]
    assert [engine.name for engine in east.prefill_engines] == ["e0"]
    assert [engine.name for engine in view.prefill_engines("west", "d1")] == ["p1"]
    assert view.cluster("west") is west
    assert view.alike is None
    assert fleet().alike is not None


def test_columns_are_numbered_as_those_of_all_and_others_are_down_and_idle() -> None:
    whole = fleet()
    for name in ("d0", "d1"):
        whole.engines[name].running = whole.engines[name].assigned = 3
    columns = ServingView(whole, frozenset({"d1"})).columns
    assert columns.number == whole.columns.number
    assert columns.up.tolist() == [0, 0, 0, 0, 1]
    assert columns.assigned.tolist() == [0, 0, 0, 0, 3]
    assert columns.max_requests.tolist() == [1, 1, 1, 1, 10]
    assert whole.columns.up.tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_each_policy_decides_on_those(
    policy: str, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if many:
        for module in ("auto", "first_token"):
            monkeypatch.setattr(f"prfaas.policies.{module}.MANY", 0)
    whole = fleet()
    held = dict.fromkeys(ENGINES, 640)
    for serves, tokens, cached in itertools.product(SOME, (20, 700, 9000), ({}, held)):
        record = Record(RequestArrived("r", tokens, 10, cached, serves=tuple(serves)), 0.0)
        maker = make_policy(for_policy(SchedulerConfig(), policy))
        decision = maker.route(record, whole.seen_by(record), now=0.0)
        if not serves & {"d0", "d1"}:
            assert decision is None
            continue
        assert isinstance(decision, Decision)
        assert decision.decode_engine in serves
        assert decision.prefill_engine in (None, *serves)


def test_of_a_request_that_all_serve_everything_is_shown() -> None:
    whole = fleet()
    assert whole.seen_by(Record(RequestArrived("r", 10, 10), 0.0)) is whole
