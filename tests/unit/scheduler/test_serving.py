"""What only some engines serve, an adapter, is given to no others, whatever happens."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.api import Decision, RoleChange, Route, View
from prfaas.policies.homogeneous import HomogeneousConfig, HomogeneousPolicy
from prfaas.policies.registry import POLICIES, for_policy, make_policy
from prfaas.policies.views import RequestView
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.journal import decode, encode
from prfaas.scheduler.lifecycle import State
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, LinkSpec, Topology
from prfaas.testing.scheduler_driver import LONG, SHORT, Driver

TINY = 200
"""Less than a block."""


def topology(capacity: int = 8, **engine: Any) -> Topology:
    """Two engines of each kind, all decode engines on one machine, and one in another cluster."""
    roles = {"e": "prefill", "p": "prefill", "d": "decode", "s": "decode"}
    places = {"e": "east", "p": "west", "d": "west", "s": "south"}
    return Topology(
        (ClusterSpec("east", "prfaas"), ClusterSpec("west", "pd"), ClusterSpec("south", "pd")),
        tuple(
            EngineSpec(name, places[name[0]], roles[name[0]], capacity, **engine)  # type: ignore[arg-type]
            for name in ("e1", "e2", "p1", "p2", "d1", "d2", "s1")
        ),
        (LinkSpec("east", "west", 25e6), LinkSpec("east", "south", 25e6)),
        256,
    )


def starts(commands: list[c.AnyCommand]) -> list[tuple[str, str]]:
    """(request, engine) of what is begun."""
    kinds = (c.StartPrefill, c.StartDecode)
    return [(x.request_id, x.engine) for x in commands if isinstance(x, kinds)]


def asked(drive: Driver, rid: str) -> set[str]:
    """Every engine that had a part in a request."""
    found = set()
    for command in drive.log:
        if isinstance(command, c.StartPrefill) and command.request_id == rid:
            found |= {command.engine, command.decode_engine}
        elif isinstance(command, c.StartDecode) and command.request_id == rid:
            found.add(command.engine)
    return found


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("tokens", [LONG, SHORT, TINY])
def test_each_policy_asks_only_who_serves_it(policy: str, tokens: int) -> None:
    drive = Driver(topology(64), policy=make_policy(for_policy(SchedulerConfig(), policy)))
    serves = ("d2", "e2", "p1")
    for number in range(12):
        rid = f"r{number}"
        drive.arrive(tokens, rid, serves=serves)
        assert asked(drive, rid)
        assert asked(drive, rid) <= set(serves)
        drive.arrive(tokens, f"any{number}")


def test_each_route_is_over_engines_that_serve_it() -> None:
    drive = Driver(topology())
    [offload] = drive.arrive(LONG, "a", serves=("d2", "e2", "p2"))
    assert (offload.route, offload.engine, offload.decode_engine) == (Route.OFFLOAD, "e2", "d2")
    [local] = drive.arrive(SHORT, "b", serves=("d2", "e2", "p2"))
    assert (local.route, local.engine, local.decode_engine) == (Route.PD_P, "p2", "d2")
    [alone] = drive.arrive(LONG, "c", serves=("d2",))
    assert (alone.route, alone.engine) == (Route.DIRECT, "d2")
    [alone] = drive.arrive(TINY, "d", serves=("d2", "p1"))
    assert (alone.route, alone.engine) == (Route.DIRECT, "d2")


def test_the_next_routes_after_failures_are_too() -> None:
    drive = Driver(topology(), max_attempts=9)
    serves = ("d2", "e2", "p2")
    drive.arrive(LONG, serves=serves)
    *_, second = drive(e.PrefillFailed("r", 1, "boom"))
    assert (second.route, second.engine) == (Route.PD_P, "p2")
    *_, third = drive(e.PrefillFailed("r", 2, "boom"))
    assert (third.route, third.engine) == (Route.DIRECT, "d2")
    assert starts(drive(e.DecodeFailed("r", 3, "boom"))) == []
    assert starts(drive.alarm()) == [("r", "d2")]
    assert asked(drive, "r") == set(serves)


def test_a_second_engine_is_asked_as_well_only_if_it_serves_it() -> None:
    drive = Driver(topology())
    drive.arrive(TINY, "one", serves=("d1",), deadline=8.0)
    drive.arrive(TINY, "two", serves=("d1", "s1"), deadline=8.0)
    first = dict(starts(drive.log))
    while drive.now < 7.0:
        drive.alarm()
    assert asked(drive, "one") == {"d1"}
    assert asked(drive, "two") == {"d1", "s1"}
    assert first["one"] == "d1"


def test_who_waits_for_a_slot_is_given_one_of_an_engine_that_serves_it() -> None:
    drive = Driver(topology(capacity=1))
    drive.arrive(TINY, "a", serves=("d1",))
    assert drive.arrive(TINY, "b", serves=("d1",)) == []
    assert drive.arrive(TINY, "c", serves=("d1", "s1"))[0].engine == "s1"
    assert drive.arrive(TINY, "d")[0].engine == "d2"
    assert drive.arrive(TINY, "e") == []
    assert starts(drive(e.RequestCompleted("d", 1))) == [("e", "d2")]
    assert starts(drive(e.RequestCompleted("c", 1))) == []
    assert starts(drive(e.RequestCompleted("a", 1))) == [("b", "d1")]


@pytest.mark.parametrize("kv_tokens", [None, 1000])
def test_an_engine_is_not_left_idle_behind_who_cannot_use_it(kv_tokens: int | None) -> None:
    drive = Driver(topology(capacity=2, kv_tokens=kv_tokens))
    drive.arrive(TINY, "a", serves=("d1",))
    assert drive.arrive(TINY, "several", serves=("d1",), sequences=2) == []
    drive(e.EngineDown("s1", "exit"))
    assert starts(drive.arrive(TINY, "b")) == [("b", "d2")]
    assert starts(drive(e.RequestCompleted("a", 1))) == [("several", "d1")]


def test_an_engine_is_not_left_idle_behind_a_hand_off_that_lies_elsewhere() -> None:
    """The same without adapters: what was handed over to one machine waits for two slots there."""
    engines = (
        EngineSpec("p1", "west", "prefill", 4),
        EngineSpec("d1", "west", "decode", 2, machine="m1"),
        EngineSpec("d2", "west", "decode", 2, machine="m2"),
    )
    west = Topology((ClusterSpec("west", "pd"),), engines, (), 256)
    drive = Driver(west, policy=HomogeneousPolicy(HomogeneousConfig()))
    drive.arrive(SHORT, "two", sequences=2, cached={"d1": 256})
    drive.arrive(TINY, "a", cached={"d1": TINY})
    drive(e.PrefillCompleted("two", 1))
    assert starts(drive(e.TransferCompleted("two", 1))) == []
    assert asked(drive, "a") == {"d1"}
    assert starts(drive.arrive(TINY, "b", cached={"d1": TINY})) == [("b", "d2")]


def test_a_prefill_engine_that_serves_it_stands_in_though_others_decode() -> None:
    drive = Driver(topology(capacity=1))
    serves = ("d1", "e1", "p2")
    drive.arrive(SHORT, "before", serves=serves)
    drive(e.EngineDown("d1", "exit"))
    assert drive.scheduler.state("before") is State.DECODING
    [start] = drive.arrive(SHORT, "a", serves=("d1", "p1"))
    assert isinstance(start, c.StartDecode)
    assert (start.route, start.engine) == (Route.DIRECT, "p1")
    assert start.reason == "no decode engine that serves it is up, p1 stands in"
    assert drive.arrive(SHORT, "b", serves=("d1", "p1")) == []
    assert starts(drive(e.EngineUp("d1"))) == [("b", "d1")]
    assert asked(drive, "before") == {"d1", "p2"}


def test_whichever_stand_in_is_free_first_answers_who_waits() -> None:
    drive = Driver(topology(capacity=1))
    drive(e.EngineDown("d1", "exit"))
    serves = ("d1", "p1", "p2")
    first = dict(starts(drive.arrive(TINY, "a", serves=serves)))
    first |= dict(starts(drive.arrive(TINY, "b", serves=serves)))
    assert set(first.values()) == {"p1", "p2"}
    assert drive.arrive(TINY, "c", serves=serves) == []
    ends = next(rid for rid, engine in first.items() if engine != _assigned(drive, "c"))
    assert starts(drive(e.RequestCompleted(ends, 1))) == [("c", first[ends])]


def _assigned(drive: Driver, rid: str) -> str:
    """The engine that it waits for."""
    decode = drive.scheduler._records[rid].decode
    assert decode is not None
    return decode.name


def test_it_waits_for_an_engine_that_serves_it_and_for_no_other() -> None:
    drive = Driver(topology(), engine_wait="60 s")
    for name in ("d1", "d2", "p1"):
        drive(e.EngineDown(name, "exit"))
    assert drive.arrive(LONG, "a", serves=("d1", "e1")) == []
    assert drive.arrive(LONG, "b", serves=("d2", "p1", "e1")) == []
    assert drive.arrive(LONG, "c", serves=("e1", "gone")) == []
    assert drive.arrive(LONG, "d", serves=()) == []
    assert all(drive.scheduler.state(rid) is State.PARKED for rid in "abcd")
    assert starts(drive(e.EngineUp("p1"), at=5.0)) == [("b", "p1")]  # In place of d2.
    assert starts(drive(e.EngineUp("d2"), at=6.0)) == []
    assert starts(drive(e.EngineUp("d1"), at=7.0)) == [("a", "e1")]
    failed = drive.alarm()
    assert [x.request_id for x in failed if isinstance(x, c.FailRequest)] == ["c", "d"]
    assert {x.kind for x in failed if isinstance(x, c.FailRequest)} == {c.ErrorKind.UNAVAILABLE}


def test_an_operator_drains_the_last_that_serves_it() -> None:
    drive = Driver(topology())
    drive(e.EngineCordoned("d1", "upgrade"))
    assert drive.arrive(LONG, serves=("d1", "e1")) == []
    assert starts(drive(e.EngineUncordoned("d1"))) == [("r", "e1")]


def test_what_goes_to_an_engine_that_dies_is_not_prefilled_to_its_end_for_others() -> None:
    """Those on its machine decode, and could read what is handed over, but do not serve it."""
    drive = Driver(topology())
    drive.arrive(LONG, "mine", serves=("d1", "s1", "e1"), cached={"d1": 256})
    drive.arrive(LONG, "anybodys", cached={"d1": 256})
    lost = drive(e.EngineDown("d1", "exit"))
    assert starts(lost) == [("mine", "s1")]
    assert drive.scheduler.state("anybodys") is State.PREFILLING


class _Turning(HomogeneousPolicy):
    """Has ``d1`` prefill from the second second on."""

    period_s = 1.0

    def adjust(self, view: View, *, now: float) -> list[RoleChange]:
        return [RoleChange("d1", "prefill", "test")] if now >= 2.0 else []


def test_the_last_decode_engine_that_serves_it_answers_while_it_changes_its_role() -> None:
    drive = Driver(topology(capacity=1), policy=_Turning(HomogeneousConfig()))
    drive.arrive(TINY, "a", serves=("d1",), at=0.0)
    assert drive.arrive(TINY, "b", serves=("d1",)) == []
    while drive.now < 2.0:
        drive.alarm()
    assert drive.scheduler.view.engines["d1"].draining
    assert drive.arrive(TINY, "c", serves=("d1",)) == []
    assert starts(drive(e.RequestCompleted("a", 1))) == [("b", "d1")]
    assert starts(drive(e.RequestCompleted("b", 1))) == [("c", "d1")]
    drive(e.RequestCompleted("c", 1))
    assert drive.scheduler.view.engines["d1"].role == "prefill"
    [start] = drive.arrive(TINY, "d", serves=("d1",))
    assert start.reason == "no decode engine that serves it is up, d1 stands in"


class _Wrong(HomogeneousPolicy):
    def route(self, request: RequestView, view: View, *, now: float) -> Decision:
        return Decision(Route.PD_P, "p1", "d1", "wrong")


@pytest.mark.parametrize("serves", [("d2", "p1", "p2"), ("d1", "p2")])
def test_a_policy_that_is_wrong_is_not_obeyed(serves: tuple[str, ...]) -> None:
    drive = Driver(topology(), policy=_Wrong(HomogeneousConfig()))
    [start] = drive.arrive(SHORT, serves=serves)
    assert asked(drive, "r") <= set(serves)
    assert "does not serve it" in start.reason


def test_a_hand_off_is_not_turned_to_a_neighbour_that_does_not_serve_it() -> None:
    drive = Driver(topology())
    drive(e.EngineUp("d1", takes_handoffs=False))
    [start] = drive.arrive(SHORT, serves=("d1", "p1", "p2"))
    assert isinstance(start, c.StartDecode)
    assert (start.engine, start.route) == ("d1", Route.DIRECT)


def test_journals_of_before_are_read() -> None:
    event = e.RequestArrived("r", 10, 5, serves=("d1", "p1"))
    assert decode(encode(1.0, event)) == (1.0, event)
    line = encode(1.0, e.RequestArrived("r", 10, 5)).replace(b',"serves":null', b"")
    assert b"serves" not in line
    assert decode(line) == (1.0, e.RequestArrived("r", 10, 5))
    assert msgspec.structs.fields(e.RequestArrived)[-1].default is None
