"""Who gets which decode slot."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology
from prfaas.testing.scheduler_driver import LONG, Driver, topology


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
    drive(e.EngineUp("south-d0"))
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, start.engine) == ("b", "west-p0")


def test_request_in_line_that_loses_its_engine_starts_once() -> None:
    """A request that waits in line, is placed elsewhere, and whose old line moves on."""
    drive = Driver(topology(decodes=2, capacity=1))
    for rid in ("a", "b"):
        drive.arrive(256, rid)
    assert drive.arrive(256, "c") == []
    drive(e.DecodeFailed("a", 1, "reset"))  # Retried after a pause: both engines are taken or bad.
    drive(e.EngineDown("west-d0", "exit"))
    while drive.scheduler.state("b") is not None:
        drive(e.RequestCompleted("b", 1))
    drive(e.EngineUp("west-d0"))
    running = [r for r in "ac" if drive.scheduler.state(r) is State.DECODING]
    assert running == ["a", "c"]
    starts = [x for x in drive.log if isinstance(x, c.StartDecode) and x.request_id == "c"]
    assert len(starts) == 1
