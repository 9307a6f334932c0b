"""When a first token is to be expected."""

from __future__ import annotations

from math import inf

import msgspec
import pytest

from prfaas.policies.costs import ProfileCosts
from prfaas.policies.first_token import soonest_elsewhere, soonest_local, soonest_remote
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import Record
from prfaas.scheduler.topology import EngineSpec
from prfaas.testing.policy_views import COSTS, TOPOLOGY, fleet


def test_queue_and_cache_of_each_engine_count() -> None:
    view = fleet()
    request = Record(RequestArrived("r", 4000, 10, {"p1": 3000}), 0.0)
    view.engines["p1"].book(2000, 2.0, 0.0)
    engine, seconds = soonest_local(request, view, view.engines["d0"], 0.5)
    assert (engine, seconds) == (view.engines["p1"], 2.5)


def test_the_line_carries_what_is_before_us_the_state_leaves_last() -> None:
    view = fleet()
    request = Record(RequestArrived("r", 4000, 10), 0.0)
    decode, line = view.engines["d0"], view.links["east", "west"]
    _, seconds = soonest_remote(request, view, decode, 0.0)
    assert seconds == pytest.approx(1.0 + 1e4 / 1e6 + 0.01)
    line.outstanding_bytes = 4e6
    _, seconds = soonest_remote(request, view, decode, 0.0)
    assert seconds == pytest.approx((4e6 + COSTS.kv_bytes(0, 4000) + 1e4) / 1e6 + 0.01)
    line.up = False
    assert soonest_remote(request, view, decode, 0.0)[0] is None


def test_where_all_wait_for_the_line_the_engine_that_is_free_first_prefills() -> None:
    other = EngineSpec("e1", "east", "prefill")
    topology = msgspec.structs.replace(TOPOLOGY, engines=(*TOPOLOGY.engines, other))
    prefill = dict.fromkeys([spec.name for spec in topology.engines], lambda tokens: tokens / 4000)
    view = FleetState(topology, ProfileCosts(prefill, lambda tokens: 1e6))
    record = Record(RequestArrived("r", 1000, 10), 0.0)
    view.engines["e0"].book(400, 0.1, 0.0)
    engine, seconds = soonest_remote(record, view, view.engines["d0"], 0.0)
    assert engine is view.engines["e1"]
    assert seconds > 1.0, "the line takes longer than either engine"


def test_a_decode_engine_prefills_beside_its_batch_only_if_it_has_time_and_a_slot() -> None:
    view = fleet()
    decode, line = view.engines["d0"], view.links["east", "west"]
    for engine in view.by_name["west"].engines:
        engine.set_usable(answers=engine is decode)
    request = Record(RequestArrived("r", 4000, 10), 0.0)
    alone_s = soonest_elsewhere(request, view, decode, line, 0.0)
    assert alone_s == view.costs.prefill_s("d0", 4000)
    decode.running = decode.max_requests // 2
    # Half of its time is free, less a tenth for one more answer.
    assert soonest_elsewhere(request, view, decode, line, 0.0) == pytest.approx(alone_s / 0.4)
    decode.running = decode.max_requests
    assert soonest_elsewhere(request, view, decode, line, 0.0) == inf
    decode.running = 1
    view.by_name["west"].ready.add(request, 1.0)
    assert soonest_elsewhere(request, view, decode, line, 0.0) == inf
