"""What is reserved is given back, in order."""

from __future__ import annotations

from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.scheduler.lifecycle import State
from prfaas.testing.scheduler_driver import SHORT, Driver, topology


def test_capacity_holds_prefills_and_decodes_back_in_order() -> None:
    drive = Driver(topology(capacity=1))
    drive.arrive(SHORT, "a")
    assert drive.arrive(SHORT, "b") == []
    assert drive.scheduler.state("b") is State.WAITING
    assert drive(e.PrefillCompleted("a", 1))[0].request_id == "b"
    drive(e.PrefillCompleted("b", 1))
    drive(e.TransferCompleted("a", 1))
    assert drive(e.TransferCompleted("b", 1)) == []
    drive(e.FirstToken("a", 1))
    [start] = drive(e.RequestCompleted("a", 1))
    assert (start.request_id, type(start)) == ("b", c.StartDecode)
