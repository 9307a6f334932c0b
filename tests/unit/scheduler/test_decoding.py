"""Who gets which decode slot."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.policies.api import Route
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology
from prfaas.testing.scheduler_driver import LONG, SHORT, Driver, topology


def test_prefill_engine_stands_in_where_no_decode_engine_is_up() -> None:
    drive = Driver(topology(prefills=2))
    drive.arrive(LONG, "under way")
    *_, moved = drive(e.EngineDown("west-d0", "exit"))
    assert isinstance(moved, c.StartDecode)
    assert (moved.route, moved.engine, moved.transfer_id) == (Route.DIRECT, "west-p0", None)
    assert moved.reason.endswith("no decode engine is up, west-p0 stands in")
    [new] = drive.arrive(LONG, "new", cached={"west-p1": 512, "east-1": 1024})
    assert (new.route, new.engine) == (Route.DIRECT, "west-p1")
    *_, again = drive(e.EngineDown("west-p1", "exit"))
    assert (again.request_id, again.engine) == ("new", "west-p0")
    drive(e.EngineUp("west-d0"))
    assert drive.arrive(LONG, "later")[0].route is Route.OFFLOAD
    for rid in ("under way", "new"):
        drive(e.RequestCompleted(rid, 2))
    assert drive.scheduler.live_requests == 1


def test_stand_in_serves_who_waits_for_it_after_a_decode_engine_came_back() -> None:
    south = (ClusterSpec("south", "pd"), EngineSpec("south-d0", "south", "decode", 1))
    west = topology(capacity=1)
    drive = Driver(
        Topology(
            (*west.clusters, south[0]), (*west.engines, south[1]), west.links, west.alignment_tokens
        )
    )
    drive(e.EngineDown("west-d0", "exit"))
    drive(e.EngineDown("south-d0", "exit"))
    assert drive.arrive(256, "a")[0].engine == "west-p0"
    assert drive.arrive(256, "b") == []
    assert drive.arrive(256, "c") == []
    [start] = drive(e.EngineUp("south-d0"))
    assert (start.request_id, start.engine) == ("b", "south-d0")
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, start.engine) == ("c", "west-p0")


def two_pd_clusters() -> Topology:
    west = topology(capacity=1)
    return msgspec.structs.replace(
        west,
        clusters=(*west.clusters, ClusterSpec("south", "pd")),
        engines=(*west.engines, EngineSpec("south-d0", "south", "decode", 1)),
    )


def test_a_request_without_a_hand_off_takes_a_slot_of_another_cluster() -> None:
    drive = Driver(two_pd_clusters())
    for rid in "abc":
        drive.arrive(256, rid)
    assert drive.scheduler.state("c") is State.READY
    engine_of = {s.request_id: s.engine for s in drive.log if isinstance(s, c.StartDecode)}
    ends = "a" if engine_of["a"] == "south-d0" else "b"
    [start] = drive(e.RequestCompleted(ends, 1))
    assert (start.request_id, start.engine) == ("c", "south-d0")
    drive.arrive(256, "d")
    [start] = drive(e.RequestCompleted("b" if ends == "a" else "a", 1))
    assert (start.request_id, start.engine) == ("d", "west-d0")


def test_a_hand_off_waits_for_a_slot_of_the_cluster_that_it_lies_in() -> None:
    drive = Driver(two_pd_clusters())
    drive.arrive(SHORT, "a")
    drive.arrive(SHORT, "b")
    starts = {s.request_id: s for s in drive.log if isinstance(s, c.StartPrefill)}
    assert starts["a"].decode_engine == "west-d0"
    drive(e.PrefillCompleted("a", 1))
    drive(e.TransferCompleted("a", 1))
    handed_over = drive.arrive(SHORT, "c", cached={"west-d0": 256})
    assert handed_over[0].decode_engine == "west-d0"
    drive(e.PrefillCompleted("c", 1))
    assert drive(e.TransferCompleted("c", 1)) == []
    drive(e.RequestCancelled("b"))
    drive(e.EngineDown("south-d0", "exit"))
    assert drive(e.EngineUp("south-d0")) == []
    assert drive.scheduler.state("c") is State.READY


def test_request_in_line_that_loses_its_engine_starts_once() -> None:
    """A request that waits in line, is placed elsewhere, and whose old line moves on."""
    drive = Driver(topology(decodes=2, capacity=1))
    for rid in ("a", "b"):
        drive.arrive(256, rid)
    assert drive.arrive(256, "c") == []
    drive(e.EngineDown("west-d0", "exit"))
    while drive.scheduler.state("b") is not None:
        drive(e.RequestCompleted("b", 1))
    drive(e.EngineUp("west-d0"))
    running = [r for r in "ac" if drive.scheduler.state(r) is State.DECODING]
    assert running == ["a", "c"]
    starts = [x for x in drive.log if isinstance(x, c.StartDecode) and x.request_id == "c"]
    assert len(starts) == 1


def test_an_engine_that_fails_at_once_does_not_get_its_own_retries() -> None:
    drive = Driver(topology(decodes=2, capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    starts = {s.request_id: s.engine for s in drive.log if isinstance(s, c.StartDecode)}
    assert starts == {"a": "west-d0", "b": "west-d1"}
    left = drive(e.DecodeFailed("b", 1, "500"))
    assert not [x for x in left if isinstance(x, c.StartDecode)]  # One is free, and the other well.
    assert drive.arrive(256, "c")[-1].engine == "west-d1"  # Of others nobody knows that.
    drive(e.DecodeFailed("c", 1, "500"))
    assert [(x.request_id, x.engine) for x in drive(e.RequestCompleted("a", 1))] == [
        ("b", "west-d0")
    ]
    assert [(x.request_id, x.engine) for x in drive(e.RequestCompleted("b", 2))] == [
        ("c", "west-d0")
    ]


def test_an_engine_that_has_failed_is_asked_again_where_it_is_the_last() -> None:
    drive = Driver(topology(decodes=2, capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    drive(e.DecodeFailed("b", 1, "500"))
    drive(e.EngineDown("west-d0", "exit"))
    [start] = drive(e.RequestCompleted("a", 2))
    assert (start.request_id, start.engine) == ("b", "west-d1")


def test_who_waits_for_an_engine_that_is_usable_no_more_gets_the_one_that_has_failed_it() -> None:
    """One that refuses the gateway's key is suspected for as long as it does, and never down."""
    drive = Driver(topology(decodes=2, capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    drive(e.DecodeFailed("b", 1, "500"))
    [start] = drive(e.EngineSuspected("west-d0", "401"))
    assert (start.request_id, start.engine) == ("b", "west-d1")


def test_so_does_who_waits_for_one_that_is_suspected_when_the_other_is_down() -> None:
    drive = Driver(topology(decodes=3, capacity=1))
    for rid in "abc":
        drive.arrive(256, rid)
    drive(e.DecodeFailed("c", 1, "500"))
    drive(e.FirstToken("b", 1))
    assert drive(e.EngineSuspected("west-d0", "401")) == []
    started = [x for x in drive(e.EngineDown("west-d1", "exit")) if isinstance(x, c.StartDecode)]
    assert {(x.request_id, x.engine) for x in started} == {("c", "west-d2")}


def test_an_engine_that_has_begun_anew_gets_who_waits_since_it_failed() -> None:
    drive = Driver(topology(decodes=2, capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    drive(e.DecodeFailed("b", 1, "500"))
    drive(e.EngineDown("west-d1", "exit"))
    [start] = drive(e.EngineUp("west-d1"))
    assert (start.request_id, start.engine) == ("b", "west-d1")


@pytest.mark.parametrize("lost", [e.EngineSuspected, e.EngineCordoned])
def test_prefill_engines_stand_in_for_who_waits_for_the_last_decode_engine(
    lost: type[e.EngineSuspected | e.EngineCordoned],
) -> None:
    drive = Driver(topology(decodes=2, capacity=1))
    for rid in "abc":
        drive.arrive(256, rid)
    drive(e.EngineSuspected("west-d0", "401"))
    started = [x for x in drive(lost("west-d1", "401")) if isinstance(x, c.StartDecode)]
    assert [(x.request_id, x.engine) for x in started] == [("c", "west-p0")]


def test_where_kv_memory_is_the_bound_nobody_overtakes_who_waits_for_room() -> None:
    topo = topology(capacity=4)
    engines = [msgspec.structs.replace(x, kv_tokens=1000) for x in topo.engines]
    drive = Driver(msgspec.structs.replace(topo, engines=tuple(engines)), threshold=9999)
    assert len(drive.arrive(200, "a")) == 1
    drive.arrive(900, "b")
    drive(e.TransferCompleted("b", 1))
    assert drive(e.PrefillCompleted("b", 1)) == []
    assert drive.arrive(200, "c") == []
    assert [x.request_id for x in drive(e.RequestCompleted("a", 1))] == ["b"]
    assert [x.request_id for x in drive(e.RequestCompleted("b", 1))] == ["c"]


def test_an_engine_with_room_is_not_left_idle_behind_one_without() -> None:
    topo = topology(decodes=2, capacity=4)
    engines = [msgspec.structs.replace(x, kv_tokens=1000) for x in topo.engines]
    drive = Driver(msgspec.structs.replace(topo, engines=tuple(engines)), threshold=9999)
    assert drive.arrive(250, "a")[0].engine == "west-d0"
    drive.arrive(950, "b", cached={"west-d0": 512})  # Only where its first tokens are.
    drive(e.TransferCompleted("b", 1))
    assert drive(e.PrefillCompleted("b", 1)) == []
    [start] = drive.arrive(250, "c")
    assert (start.request_id, start.engine) == ("c", "west-d1")


def test_a_hand_off_that_all_its_machine_fails_at_is_made_anew_elsewhere() -> None:
    drive = Driver(two_pd_clusters())
    [first] = drive.arrive(LONG)
    assert first.decode_engine == "west-d0"
    drive(e.TransferCompleted("r", 1))
    [start] = drive(e.PrefillCompleted("r", 1))
    assert start.engine == "west-d0"
    cancel, dropped, elsewhere = drive(e.DecodeFailed("r", 1, "500"))
    assert isinstance(cancel, c.CancelDecode)
    assert isinstance(dropped, c.CancelTransfer)
    assert isinstance(elsewhere, c.StartDecode)
    assert (elsewhere.engine, elsewhere.attempt) == ("south-d0", 2)
