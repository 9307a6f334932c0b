"""From a planned prefill to the last byte of its hand-off."""

from __future__ import annotations

import pytest

from prfaas.policies.api import Route
from prfaas.policies.line_rate import LEAST_BYTES_PER_S
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, Driver


def test_transfer_may_complete_before_the_prefill_answers() -> None:
    drive = Driver()
    drive.arrive(LONG)
    assert drive(e.TransferCompleted("r", 1)) == []
    assert isinstance(drive(e.PrefillCompleted("r", 1))[0], c.StartDecode)


def test_prefill_times_are_learned_without_the_wait_in_the_queue() -> None:
    drive = Driver()
    for rid in ("a", "b", "c"):
        drive.arrive(LONG, rid)
    drive(e.PrefillCompleted("a", 1), at=0.5)
    drive(e.TransferCompleted("b", 1), at=0.9)
    drive(e.PrefillCompleted("b", 1), at=1.0)
    assert drive.costs.prefill_s("east-1", LONG) == pytest.approx(0.5)
    drive(e.RequestCancelled("c"), at=1.1)
    drive.arrive(LONG, "d", at=9.0)
    drive(e.PrefillCompleted("d", 1), at=9.5)
    assert drive.costs.prefill_s("east-1", LONG) == pytest.approx(0.5)


def test_a_prefill_is_not_timed_while_another_is_given_up() -> None:
    """Which of the two the engine was at is not known."""
    drive = Driver()
    drive.arrive(LONG, "a")
    drive.arrive(LONG, "b")
    drive(e.RequestCancelled("b"), at=5.0)
    before = drive.costs.prefill_s("east-1", LONG)
    drive(e.PrefillCompleted("a", 1), at=6.0)
    assert drive.costs.prefill_s("east-1", LONG) == before


def test_stalled_transfer_is_given_up_unless_it_progresses() -> None:
    drive = Driver(transfer_stall="10 s")
    drive.arrive(LONG)
    drive(e.PrefillCompleted("r", 1), at=1.0)
    drive(e.TransferProgressed("r", 1), at=9.0)
    assert drive.alarm() == []
    *_, again = drive.alarm()
    assert drive.now == 19.0
    assert "stalled" in again.reason


def test_a_line_on_which_all_rests_is_not_taken_for_the_next() -> None:
    """Whatever is measured there: connections may break before anything is."""
    drive = Driver(transfer_stall="10 s")
    line = drive.scheduler.view.link("east", "west")
    assert line is not None
    drive.arrive(LONG)
    drive(e.PrefillCompleted("r", 1), at=1.0)
    drive(e.TransferProgressed("r", 1, 0.1), at=2.0)
    drive.alarm()
    assert line.rate_bytes_per_s == 25e6
    *_, again = drive.alarm()
    assert (drive.now, again.route) == (12.0, Route.PD_P)
    assert line.rate_bytes_per_s == LEAST_BYTES_PER_S
    drive(e.LinkStateChanged("east", "west", up=True), at=13.0)
    assert line.rate_bytes_per_s < 2 * LEAST_BYTES_PER_S
    drive(e.RequestCancelled("r"), at=60.0)
    assert line.rate_bytes_per_s == 25e6, "somebody tries it again"


@pytest.mark.parametrize(
    "moves",
    [
        [e.TransferProgressed("other", 1, 0.5)],
        [e.TransferCompleted("other", 1)],
        [e.PrefillCompleted("other", 1), e.TransferCompleted("other", 1)],
    ],
    ids=["while it is prefilled", "before its prefill ends", "as the last of it"],
)
def test_a_line_that_carries_others_is_not_to_blame(moves: list[e.AnyEvent]) -> None:
    drive = Driver(transfer_stall="10 s")
    line = drive.scheduler.view.link("east", "west")
    assert line is not None
    drive.arrive(LONG)
    drive.arrive(LONG, "other")
    drive(e.PrefillCompleted("r", 1), at=1.0)
    for event in moves:
        drive(event, at=2.0)
    *_, again = drive.alarm()
    assert (drive.now, again.route) == (11.0, Route.PD_P)
    assert line.rate_bytes_per_s == 25e6


def test_transfer_that_crawls_is_given_up() -> None:
    """After its prefill: 2% in ten seconds would leave minutes to go, 40% does not."""
    for share, kept in ((0.12, False), (0.5, True)):
        drive = Driver(transfer_stall="10 s")
        drive.arrive(LONG)
        drive(e.TransferProgressed("r", 1, 0.02), at=1.0)
        drive(e.PrefillCompleted("r", 1), at=2.0)
        drive(e.TransferProgressed("r", 1, 0.1), at=3.0)
        assert drive(e.TransferProgressed("r", 1, 0.11), at=9.0) == []
        followed = drive(e.TransferProgressed("r", 1, share), at=13.0)
        if kept:
            assert followed == []
        else:
            assert followed[-1].route is Route.PD_P
            assert followed[-1].reason == "the transfer is too slow: 88% missing after 10 s"


def test_the_first_prefill_of_an_engine_that_came_up_teaches_nothing() -> None:
    drive = Driver()
    drive(e.EngineDown("east-1", "exit"))
    drive(e.EngineUp("east-1"))
    before = drive.costs.prefill_s("east-1", LONG)
    drive.arrive(LONG, "a")
    drive(e.PrefillCompleted("a", 1), at=9.0)
    assert drive.costs.prefill_s("east-1", LONG) == before
    drive.arrive(LONG, "b")
    drive(e.PrefillCompleted("b", 1), at=9.5)
    assert drive.costs.prefill_s("east-1", LONG) == pytest.approx(0.5)
