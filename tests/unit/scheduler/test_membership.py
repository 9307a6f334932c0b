"""A cordoned engine finishes what it has, takes no more, and is reported when it is empty."""

from __future__ import annotations

import pytest

from prfaas.core.errors import CallerError
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.scheduler_driver import Driver

LONG, SHORT = 100, 8


class Harness:
    """PrfaaS engines e1, e2 before the decode engines d1, d2 of one cluster, with a slot each."""

    def __init__(self, decode: tuple[str, ...] = ("d1", "d2")) -> None:
        topology = Topology(
            (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd")),
            (
                *(EngineSpec(name, "east", "prefill", 1) for name in ("e1", "e2")),
                *(EngineSpec(name, "west", "decode", 1) for name in decode),
            ),
            (LinkSpec("east", "west", 1e6),),
            alignment_tokens=4,
        )
        self.drive = Driver(topology, threshold=50)
        self.scheduler = self.drive.scheduler

    def __call__(self, event: e.AnyEvent) -> list[c.AnyCommand]:
        return self.drive(event)

    def arrive(self, name: str, tokens: int = SHORT) -> list[c.AnyCommand]:
        return self(e.RequestArrived(name, tokens, 9))


def engines(commands: list[c.AnyCommand], kind: type[c.AnyCommand]) -> list[str]:
    return [command.engine for command in commands if isinstance(command, kind)]


def test_an_idle_engine_is_drained_at_once_and_reported_once() -> None:
    h = Harness()
    assert h(e.EngineCordoned("d1", "upgrade")) == [c.ReportDrained("d1")]
    assert h(e.EngineCordoned("d1", "again")) == []
    assert engines(h.arrive("a"), c.StartDecode) == ["d2"]
    assert h.arrive("b") == []
    assert h.scheduler.state("b") is State.READY
    assert engines(h(e.EngineUncordoned("d1")), c.StartDecode) == ["d1"]
    h(e.RequestCompleted("b", 1))
    assert h(e.EngineCordoned("d1", "next")) == [c.ReportDrained("d1")]


def test_what_runs_is_finished_and_then_the_engine_is_reported() -> None:
    h = Harness()
    (start,) = h.arrive("a")
    assert isinstance(start, c.StartDecode)
    assert h(e.EngineCordoned(start.engine, "upgrade")) == []
    assert h(e.FirstToken("a", 1)) == []
    assert h(e.RequestCompleted("a", 1)) == [c.ReportDrained(start.engine)]


def test_what_only_waits_for_its_slot_goes_elsewhere() -> None:
    h = Harness(decode=("d1",))
    h.arrive("a")
    assert h.arrive("b") == []
    assert h(e.EngineCordoned("d1", "upgrade")) == []
    assert h.scheduler.state("b") is State.PARKED
    assert h(e.RequestCompleted("a", 1)) == [c.ReportDrained("d1")]
    assert engines(h(e.EngineUncordoned("d1")), c.StartDecode) == ["d1"]


def test_what_was_handed_over_to_it_is_answered_by_it() -> None:
    h = Harness(decode=("d1",))
    assert engines(h.arrive("a", LONG), c.StartPrefill) == ["e1"]
    assert h(e.EngineCordoned("d1", "upgrade")) == []
    h(e.PrefillCompleted("a", 1))
    assert engines(h(e.TransferCompleted("a", 1)), c.StartDecode) == ["d1"]
    assert h(e.RequestCompleted("a", 1)) == [c.ReportDrained("d1")]


def test_prefills_that_wait_for_a_place_move_and_running_ones_end() -> None:
    h = Harness()
    h.arrive("a", LONG), h.arrive("b", LONG), h.arrive("c", LONG), h.arrive("d", LONG)
    waiting = {r for r in "abcd" if h.scheduler.state(r) is State.WAITING}
    assert len(waiting) == 2
    h(e.EngineCordoned("e1", "upgrade"))
    assert h.scheduler.view.engines["e1"].prefills == 1
    running = next(r for r in "abcd" if r not in waiting and h.scheduler.state(r) is not None)
    for name in sorted({"a", "b", "c", "d"} - waiting):
        told = h(e.PrefillCompleted(name, 1))
        if c.ReportDrained("e1") in told:
            break
    else:
        pytest.fail(f"e1 was never reported; {running} ran first")


def test_a_cordon_outlives_a_restart_of_the_engine() -> None:
    h = Harness()
    h(e.EngineCordoned("d1", "upgrade"))
    h(e.EngineDown("d1", "restarted"))
    h(e.EngineUp("d1"))
    assert engines(h.arrive("a"), c.StartDecode) == ["d2"]
    assert h.arrive("b") == []
    assert engines(h(e.EngineUncordoned("d1")), c.StartDecode) == ["d1"]


def test_an_engine_that_dies_while_it_drains_is_empty() -> None:
    h = Harness()
    (start,) = h.arrive("a")
    assert isinstance(start, c.StartDecode)
    h(e.EngineCordoned(start.engine, "upgrade"))
    moved = h(e.EngineDown(start.engine, "killed"))
    assert c.ReportDrained(start.engine) in moved
    assert engines(moved, c.StartDecode) == [{"d1": "d2", "d2": "d1"}[start.engine]]


def test_an_engine_that_is_not_there_cannot_be_drained() -> None:
    with pytest.raises(CallerError, match="unknown engine 'x'; known: e1"):
        Harness()(e.EngineCordoned("x", "upgrade"))
