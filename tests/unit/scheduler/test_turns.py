"""Whose turn it is where requests wait."""

from __future__ import annotations

from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.state import Record
from prfaas.scheduler.turns import ONE_IN, Turns
from prfaas.testing.scheduler_driver import LONG, Driver, topology


def record(
    name: str, tenant: str = "", *, klass: int = 0, weight: float = 1.0, priority: int = 0
) -> Record:
    event = e.RequestArrived(
        name, 1, 1, tenant=tenant, tenant_class=klass, weight=weight, priority=priority
    )
    return Record(event, 0.0)


def queue(*records: Record, size: float = 1.0) -> Turns[Record]:
    turns: Turns[Record] = Turns()
    for each in records:
        turns.add(each, size)
    return turns


def served(turns: Turns[Record]) -> list[str]:
    names = []
    while (first := turns.first()) is not None:
        turns.serve(first)
        names.append(first.request_id)
    return names


def test_one_tenant_is_served_in_order_of_arrival_but_for_its_own_priorities() -> None:
    rest = [record("late", priority=1), record("a"), record("b"), record("soon", priority=-1)]
    assert served(queue(*rest)) == ["soon", "a", "b", "late"]


def test_who_asks_for_much_does_not_keep_others_waiting() -> None:
    flood = [record(f"a{n}", "a") for n in range(4)]
    assert served(queue(*flood, record("b0", "b"), record("b1", "b"))) == [
        "a0", "b0", "a1", "b1", "a2", "a3",
    ]  # fmt: skip


def test_a_tenant_of_twice_the_weight_is_given_twice_as_much() -> None:
    both = [
        record(f"{name}{n}", name, weight=w) for n in range(4) for name, w in (("a", 2), ("b", 1))
    ]
    assert [name[0] for name in served(queue(*both))][:6] == ["a", "b", "a", "a", "b", "a"]


def test_a_clients_priority_moves_it_past_its_own_tenants_requests_alone() -> None:
    rest = [record("a0", "a"), record("b0", "b"), record("b1", "b", priority=-1000)]
    assert served(queue(*rest)) == ["a0", "b1", "b0"]


def test_nobody_saves_up_and_nobody_pays_for_what_is_long_past() -> None:
    turns = queue(*(record(f"a{n}", "a") for n in range(3)))
    assert served(turns) == ["a0", "a1", "a2"]
    for each in (record("a3", "a"), record("b0", "b"), record("a4", "a")):
        turns.add(each, 1.0)
    assert served(turns) == ["a3", "b0", "a4"]
    turns = queue(*(record(f"a{n}", "a") for n in range(6)))
    for _ in range(3):
        turns.serve(turns.first())  # type: ignore[arg-type]
    for n in range(4):
        turns.add(record(f"b{n}", "b"), 1.0)
    assert [name[0] for name in served(turns)][:4] == ["b", "a", "b", "a"]


def test_what_was_given_up_costs_its_tenant_nothing() -> None:
    turns = queue(record("a0", "a"), record("a1", "a"), record("b0", "b"))
    assert turns.drop("a0")
    assert not turns.drop("a0")
    assert "a0" not in turns
    assert len(turns) == 2
    assert served(turns) == ["a1", "b0"]


def test_a_better_class_goes_first_and_starves_no_other() -> None:
    turns = queue(record("old", "a", klass=5), record("older", "b", klass=9))
    order = []
    for n in range(3 * ONE_IN):
        turns.add(record(f"{n}", "c", klass=-1), 1.0)
        first = turns.first()
        assert first is not None
        turns.serve(first)
        order.append(first.request_id)
    assert order.index("old") == ONE_IN - 1
    assert order.index("older") == 2 * ONE_IN - 1


def test_all_are_offered_where_the_first_cannot_use_what_there_is() -> None:
    turns = queue(
        record("a0", "a"), record("b0", "b"), record("a1", "a"), record("c0", "c", klass=1)
    )
    assert [each.request_id for each in turns.in_turn()] == ["a0", "a1", "b0", "c0"]


def test_places_on_a_prefill_engine_go_round() -> None:
    drive = Driver(topology(capacity=1), max_attempts=1)
    drive.arrive(LONG, "first", at=0.0)
    for n in range(3):
        drive.arrive(LONG, f"a{n}", tenant="a")
    drive.arrive(LONG, "b0", tenant="b")
    drive.arrive(LONG, "vip", tenant="v", tenant_class=-1)
    order = ["first"]
    while len(order) < 5:
        [started] = [
            command
            for command in drive(e.PrefillCompleted(order[-1], 1))
            if isinstance(command, c.StartPrefill)
        ]
        order.append(started.request_id)
    assert order == ["first", "vip", "a0", "b0", "a1"]


def test_decode_slots_go_round() -> None:
    drive = Driver(topology(prefills=0, capacity=1), policy=None)
    drive.arrive(100, "first", at=0.0)
    for n in range(3):
        drive.arrive(100, f"a{n}", tenant="a")
    drive.arrive(100, "b0", tenant="b", weight=3.0)
    order = ["first"]
    while len(order) < 5:
        [started] = [
            command
            for command in drive(e.RequestCompleted(order[-1], 1))
            if isinstance(command, c.StartDecode)
        ]
        order.append(started.request_id)
    assert order == ["first", "a0", "b0", "a1", "a2"]
