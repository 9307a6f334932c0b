"""What each way to serve a request takes, and whom it delays."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.policies.api import Route
from prfaas.policies.costs import ProfileCosts
from prfaas.policies.route_choice import Candidate, candidates
from prfaas.scheduler.events import RequestArrived
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.state import Record
from prfaas.scheduler.topology import EngineSpec
from prfaas.testing.policy_views import COSTS, TOPOLOGY, fleet

ALIKE = ProfileCosts(
    dict.fromkeys(("e0", "e1", "p0", "p1", "d0", "d1"), lambda tokens: tokens / 40_000),
    lambda tokens: 1e4 + 100.0 * tokens,
)


def found(
    view: FleetState, tokens: int = 4000, slot_s: float = 0.0, **more: object
) -> dict[str, Candidate]:
    """By the engine that prefills."""
    request = Record(RequestArrived("r", tokens, 10, **more), 0.0)  # type: ignore[arg-type]
    ways = candidates(request, view, view.cluster("west"), slot_s, 0.0)
    return {(way.prefill or way.decode).name: way for way in ways}


def test_every_engine_that_is_up_is_a_way() -> None:
    view = fleet()
    assert set(found(view)) == {"e0", "p0", "p1", "d0", "d1"}
    view.engines["p1"].up = view.engines["d0"].up = False
    view.links["east", "west"].up = False
    assert set(found(view)) == {"p0", "d1"}
    view.engines["d1"].up = False
    assert found(view) == {}


def test_times_and_delays() -> None:
    view = fleet()
    for _ in range(3):
        view.engines["p0"].book(1000, 1.0, 0.0)
    ways = found(view)
    assert ways["p0"][:3] == (7.0, 12.0, 4.0)
    assert ways["p1"][:3] == (4.0, 0.0, 4.0)
    assert ways["e0"].ttft_s == pytest.approx(1.0 + 1e4 / 1e6 + 0.01)
    assert found(view, slot_s=6.0)["p1"].ttft_s == 6.0


def test_transfers_before_us_count_where_the_line_is_what_one_waits_for() -> None:
    view = fleet()
    link = view.links["east", "west"]
    link.outstanding_bytes = 8e6
    link.records = dict.fromkeys("ab", Record(RequestArrived("x", 1, 1), 0.0))
    way = found(view)["e0"]
    own_s = COSTS.kv_bytes(0, 4000) / 1e6
    assert way.ttft_s == pytest.approx(8.0 + own_s + 0.01 + 0.01)
    assert way.behind_s == pytest.approx(2 * own_s)


def test_a_decode_engine_prefills_in_the_time_that_its_batch_leaves() -> None:
    view = fleet()
    view.engines["d0"].running = 5
    ways = found(view)
    assert (ways["d0"].route, ways["d0"].ttft_s, ways["d1"].ttft_s) == (Route.DIRECT, 10.0, 4.0)
    view.engines["d0"].running = 9
    assert "d0" not in found(view)


def test_only_what_an_engine_can_go_on_from_is_saved() -> None:
    ways = found(fleet(), cached={"d0": 3000, "d1": 3000}, resumable={"d1": 0})
    assert (ways["d0"].ttft_s, ways["d1"].ttft_s) == (1.0, 4.0)


@pytest.mark.parametrize(("tokens", "cached"), [(60, {}), (100, {"d0": 64}), (500, {"d0": 499})])
def test_a_prompt_of_which_nothing_is_to_be_handed_over_is_the_decode_engines(
    tokens: int, cached: dict[str, int]
) -> None:
    view = fleet()
    view.engines["d1"].assigned = 1
    assert set(found(view, tokens, cached=cached)) == {"d0", "d1"}
    assert {"e0", "p0", "p1"} < set(found(view, 600, cached=cached))


def test_with_nothing_to_hand_over_it_waits_for_the_slot_of_an_engine_that_is_full() -> None:
    view = fleet()
    for name in ("d0", "d1"):
        view.engines[name].running = view.engines[name].assigned = 10
    (way,) = found(view, 60, slot_s=3.0).values()
    assert (way.route, way.decode.name) == (Route.DIRECT, "d0")
    assert way.wait_s == 3.0
    assert way.ttft_s > 3.0


def test_the_lines_part_of_the_delay_is_the_same_for_all_engines_at_its_end() -> None:
    other = EngineSpec("e1", "east", "prefill")
    view = FleetState(msgspec.structs.replace(TOPOLOGY, engines=(*TOPOLOGY.engines, other)), ALIKE)
    view.links["east", "west"].records = {"x": Record(RequestArrived("x", 1, 1), 0.0)}
    view.engines["e1"].book(400, 60.0, 0.0)
    ways = found(view)
    own_s = ALIKE.prefill_s("e1", 4000)
    assert ways["e0"].behind_s > 0
    assert ways["e1"].behind_s == ways["e0"].behind_s + own_s
