"""Room is kept for answers as long as they are, not as long as they might be."""

from __future__ import annotations

import msgspec

from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.answer_lengths import AnswerLengths
from prfaas.testing.scheduler_driver import Driver, topology


def test_nine_of_ten_were_no_longer() -> None:
    lengths = AnswerLengths()
    for tokens in range(1, 16):
        lengths.ended(tokens)
    assert lengths.expected(5000) == 5000
    lengths.ended(1000)
    assert lengths.expected(5000) == 14
    assert lengths.expected(3) == 3


def test_no_tenants_answers_say_how_long_others_are() -> None:
    """Nor do several answers to one prompt say that one is as long as all of them."""
    lengths = AnswerLengths()
    for _ in range(16):
        lengths.ended(10, "alice")
        lengths.ended(2_000_000, "mallory")
        lengths.ended(80, "carol", sequences=8)
    assert lengths.expected(5000, "alice") == 10
    assert lengths.expected(5000, "mallory") == 5000
    assert lengths.expected(5000, "carol") == 10
    assert lengths.expected(5000, "dave") == 5000


def test_what_one_tenant_is_answered_holds_no_other_back() -> None:
    topo = topology()
    engines = [msgspec.structs.replace(x, kv_tokens=1000) for x in topo.engines]
    drive = Driver(msgspec.structs.replace(topo, engines=tuple(engines)))
    for n in range(32):
        tokens = 10 if n % 2 else 100_000
        drive(e.RequestArrived(f"{n}", 100, 100, tenant="ab"[n % 2 == 0]))
        drive(e.RequestCompleted(f"{n}", 1, tokens))
    starts = [drive(e.RequestArrived(f"long {n}", 100, 100_000, tenant="a")) for n in range(4)]
    assert all(isinstance(start, c.StartDecode) for [start] in starts)


def test_what_clients_ask_for_and_never_get_holds_nobody_back() -> None:
    topo = topology()
    engines = [msgspec.structs.replace(x, kv_tokens=1000) for x in topo.engines]
    drive = Driver(msgspec.structs.replace(topo, engines=tuple(engines)))
    for n in range(16):
        drive.arrive(100, f"{n}")
        drive(e.RequestCompleted(f"{n}", 1, 10))
    starts = [drive(e.RequestArrived(f"long {n}", 100, 100_000)) for n in range(4)]
    assert all(isinstance(start, c.StartDecode) for [start] in starts)


def test_what_an_engine_says_of_its_memory_counts_from_then_on() -> None:
    drive = Driver()
    drive.arrive(100, "a")
    drive(e.KvMemoryKnown("west-d0", 400, 100))
    assert drive.arrive(100, "b") == []
    [start] = drive(e.RequestCompleted("a", 1))
    assert start.request_id == "b"
    drive(e.KvMemoryKnown("west-d0", 6000, 100))
    [start] = drive.arrive(100, "c")
    assert start.request_id == "c"
