"""How requests end other than well."""

from __future__ import annotations

from prfaas.policies.api import Route
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, Driver, topology


def test_failure_after_the_first_token_is_visible() -> None:
    drive = Driver(topology(decodes=2))
    drive.arrive(256)
    drive(e.FirstToken("r", 1))
    failed = drive(e.EngineDown("west-d0", "exit"))[-1]
    assert isinstance(failed, c.FailRequest)
    assert failed.kind is c.ErrorKind.ENGINE


def test_deadline_ends_a_request_and_an_attempt_uses_only_its_share() -> None:
    drive = Driver()
    drive.arrive(LONG, deadline=100.0)
    assert drive.alarm()[-1].route is Route.PD_P
    assert drive.now == 50.0
    assert drive.alarm()[-1].route is Route.DIRECT
    while drive.scheduler.live_requests:
        last = drive.alarm()
    assert (drive.now, last[-1].kind) == (100.0, c.ErrorKind.DEADLINE)


def test_cancel_stops_whatever_runs_and_frees_the_slot() -> None:
    drive = Driver(topology(capacity=1))
    drive.arrive(256, "a")
    drive.arrive(256, "b")
    cancel, start = drive(e.RequestCancelled("a"))
    assert isinstance(cancel, c.CancelDecode)
    assert start.request_id == "b"
    assert drive(e.RequestCancelled("a")) == []
