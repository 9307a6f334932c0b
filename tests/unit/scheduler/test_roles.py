"""Engines change their roles while they have work, and lose none of it."""

from __future__ import annotations

from collections.abc import Sequence

from prfaas.policies.api import RoleChange, View
from prfaas.policies.homogeneous import HomogeneousConfig, HomogeneousPolicy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.topology import Topology
from prfaas.testing.scheduler_driver import SHORT, Driver, topology


class Asking(HomogeneousPolicy):
    """Calls for what it was told to, once."""

    period_s = 1.0

    def __init__(self) -> None:
        super().__init__(HomogeneousConfig())
        self.calls: list[RoleChange] = []

    def adjust(self, view: View, *, now: float) -> Sequence[RoleChange]:
        calls, self.calls = self.calls, []
        return calls


class Asked(Driver):
    """A driver whose policy calls for role changes when it is asked to."""

    def __init__(self, topo: Topology, **config: str) -> None:
        self.asking = Asking()
        super().__init__(topo, policy=self.asking, **config)
        self(e.TimerFired())

    def ask(self, engine: str, role: str) -> list[c.AnyCommand]:
        self.asking.calls = [RoleChange(engine, role, "why")]  # type: ignore[arg-type]
        return self(e.TimerFired(), at=self.now + 1.0)


def test_a_decode_engine_is_drained_before_it_prefills() -> None:
    drive = Asked(topology(decodes=2))
    starts = [drive.arrive(256, rid)[0].engine for rid in "ab"]
    assert starts == ["west-d0", "west-d1"]
    assert drive.ask("west-d0", "prefill") == []
    assert [drive.arrive(256, rid)[0].engine for rid in "cd"] == ["west-d1", "west-d1"]
    [changed] = drive(e.RequestCompleted("a", 1))
    assert changed == c.ChangeRole("west-d0", "prefill", "why")
    drive(e.EngineDown("west-p0", "exit"))
    assert drive.arrive(SHORT, "e")[0].engine == "west-d0"


def test_an_idle_decode_engine_prefills_at_once_but_the_last_one_stays() -> None:
    drive = Asked(topology(decodes=2))
    assert drive.ask("west-d1", "prefill") == [c.ChangeRole("west-d1", "prefill", "why")]
    assert drive.ask("west-d0", "prefill") == []
    assert drive.arrive(256, "a")[0].engine == "west-d0"


def test_a_prefill_engine_takes_answers_at_once_and_finishes_its_prefills() -> None:
    drive = Asked(topology(capacity=1))
    drive.arrive(256, "a")
    assert drive.arrive(256, "b") == []
    [prefill] = drive.arrive(SHORT, "c")
    assert prefill.engine == "west-p0"
    changed, start = drive.ask("west-p0", "decode")
    assert changed == c.ChangeRole("west-p0", "decode", "why")
    assert (start.request_id, start.engine) == ("b", "west-p0")
    drive(e.TransferCompleted("c", 1))
    drive(e.PrefillCompleted("c", 1))
    [start] = drive(e.RequestCompleted("b", 1))
    assert (start.request_id, start.engine) == ("c", "west-p0")


def test_draining_is_taken_back_where_decode_needs_the_engine_again() -> None:
    drive = Asked(topology(decodes=2, capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    drive.ask("west-d0", "prefill")
    assert drive.arrive(256, "c") == []
    assert drive.ask("west-d0", "decode") == []
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, start.engine) == ("c", "west-d0")


def test_an_engine_that_drains_goes_on_where_all_others_are_lost() -> None:
    drive = Asked(topology(decodes=2, capacity=1))
    drive.arrive(256, "a")
    drive.ask("west-d0", "prefill")
    drive(e.EngineDown("west-d1", "exit"))
    assert drive.arrive(256, "b") == []
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, start.engine) == ("b", "west-d0")


def test_what_only_an_engine_that_drains_has_cached_is_still_answered_there() -> None:
    drive = Asked(topology(decodes=2))
    drive.arrive(SHORT, "a", cached={"west-d0": 256})
    drive.ask("west-d0", "prefill")
    drive(e.TransferCompleted("a", 1))
    [start] = drive(e.PrefillCompleted("a", 1))
    assert (start.engine, start.from_token) == ("west-d0", 256)
    assert isinstance(drive(e.RequestCompleted("a", 1))[-1], c.ChangeRole)


def test_where_the_other_is_suspected_one_that_drains_decodes_on() -> None:
    drive = Asked(topology(decodes=2))
    assert [drive.arrive(256, rid)[0].engine for rid in "ab"] == ["west-d0", "west-d1"]
    drive.ask("west-d0", "prefill")
    drive(e.EngineSuspected("west-d1", "late"))
    assert drive.arrive(256, "c")[0].engine == "west-d0"
    assert drive(e.RequestCompleted("a", 1)) == []


def test_a_dry_run_tells_what_it_would_do_and_does_nothing() -> None:
    drive = Asked(topology(decodes=2), roles="dry-run")
    told = c.ChangeRole("west-d1", "prefill", "why", dry_run=True)
    assert drive.ask("west-d1", "prefill") == [told]
    assert drive.ask("west-d1", "prefill") == []
    assert drive.scheduler.view.engines["west-d1"].role == "decode"
    assert {drive.arrive(256, rid)[0].engine for rid in "ab"} == {"west-d0", "west-d1"}
    drive.now += 60.0
    assert drive.ask("west-d1", "prefill") == [told]


def test_fixed_roles_stay() -> None:
    drive = Asked(topology(decodes=2), roles="fixed")
    assert drive.ask("west-d1", "prefill") == []
    assert drive.scheduler.view.engines["west-d1"].role == "decode"


def test_an_engine_whose_layout_is_another_than_its_neighbours_keeps_its_role() -> None:
    drive = Asked(topology(decodes=2))
    drive(e.EngineUp("west-d1", changes_role=False))
    assert drive.ask("west-d1", "prefill") == []
    drive(e.EngineUp("west-d1"))
    assert drive.ask("west-d1", "prefill") == [c.ChangeRole("west-d1", "prefill", "why")]


def test_a_prefill_engine_without_its_agent_prefills_for_nobody_but_stands_in() -> None:
    drive = Driver(topology(capacity=1))
    [first] = drive.arrive(SHORT, "a")
    assert first.engine == "west-p0"
    assert drive.arrive(SHORT, "b") == []
    [moved] = drive(e.EngineUp("west-p0", takes_handoffs=False))
    assert (moved.request_id, moved.engine) == ("b", "west-d0")
    drive(e.RequestCompleted("b", 2))
    moved = drive(e.EngineDown("west-d0", "exit"))
    assert [x.engine for x in moved if isinstance(x, c.StartDecode)] == ["west-p0"]
    drive(e.EngineUp("west-p0", takes_handoffs=True))
    assert [x.name for x in drive.scheduler.view.cluster("west").prefill_engines] == ["west-p0"]


def test_an_engine_goes_back_to_its_role_where_its_cluster_is_not_alike_any_more() -> None:
    drive = Asked(topology(decodes=2))
    drive.ask("west-d1", "prefill")
    [changed] = drive(e.EngineUp("west-d1", changes_role=False))
    assert isinstance(changed, c.ChangeRole)
    assert (changed.engine, changed.role) == ("west-d1", "decode")
