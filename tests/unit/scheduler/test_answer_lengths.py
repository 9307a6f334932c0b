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
