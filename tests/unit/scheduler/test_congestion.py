"""Prompts on a line that begins to crawl are prefilled elsewhere, if that is sooner."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.policies.registry import make_policy
from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, Driver, topology

GRACE_S = 2.0
# A byte a token, 10,000 tokens a second as long as nothing was seen: 1,792 tokens go over.
CRAWLS = e.LinkStateChanged("east", "west", up=True, rate_bytes_per_s=100.0, congestion=1.0)


def moved(commands: list[c.AnyCommand]) -> list[c.StartPrefill]:
    return [command for command in commands if isinstance(command, c.StartPrefill)]


def carries(bytes_per_s: float) -> e.LinkStateChanged:
    return e.LinkStateChanged("east", "west", up=True, rate_bytes_per_s=bytes_per_s, congestion=1.0)


def test_a_prompt_on_a_line_that_crawls_is_prefilled_elsewhere() -> None:
    drive = Driver()
    [first] = drive.arrive(LONG, at=0.0)
    assert first.engine == "east-1"
    assert drive(CRAWLS, at=1.0) == []
    commands = drive.alarm()
    assert drive.now == 1.0 + GRACE_S
    assert [type(command) for command in commands] == [
        c.CancelPrefill, c.CancelTransfer, c.StartPrefill,
    ]  # fmt: skip
    [again] = moved(commands)
    assert (again.engine, again.attempt) == ("west-p0", 2)
    assert "line from east would take 17.9 s" in again.reason
    assert drive.scheduler.view.link("east", "west").outstanding_bytes == 0  # type: ignore[union-attr]


def test_what_has_nearly_arrived_stays() -> None:
    drive = Driver()
    drive.arrive(LONG, at=0.0)
    drive(e.PrefillCompleted("r", 1), at=0.5)
    drive(e.TransferProgressed("r", 1, 0.95), at=0.9)
    assert drive(CRAWLS, at=1.0) == []
    assert drive(carries(90.0), at=1.0 + GRACE_S) == []


def test_those_who_lack_most_go_first_and_leave_the_line_to_the_others() -> None:
    drive = Driver()
    for n in range(10):
        drive.arrive(LONG, f"{n}", at=0.0)
    drive(carries(4000.0), at=0.1)
    gone = {command.request_id for command in moved(drive.alarm())}
    assert gone
    link = drive.scheduler.view.link("east", "west")
    assert link is not None
    assert link.transfers == 10 - len(gone) > 0


def test_where_everything_else_is_busier_still_it_stays() -> None:
    drive = Driver(topology(prefills=0))
    drive.arrive(LONG, at=0.0)
    engine = drive.scheduler.view.engines["west-d0"]
    engine.book(1, 1000.0, 0.0)  # type: ignore[attr-defined]
    drive(CRAWLS, at=1.0)
    assert moved(drive.alarm()) == []


def test_a_line_is_not_looked_at_with_every_word_of_it() -> None:
    drive = Driver(topology(prefills=0))
    drive(CRAWLS, at=0.0)
    drive.arrive(LONG, at=0.1)
    assert drive(carries(90.0), at=GRACE_S) != []
    drive.arrive(LONG, "again", at=GRACE_S + 0.1)
    assert drive(CRAWLS, at=GRACE_S + 0.2) == []
    assert drive(CRAWLS, at=GRACE_S + 0.5) != []


@pytest.mark.parametrize("well", [carries(25e6), carries(18e6)])
def test_a_momentary_dip_moves_nothing(well: e.LinkStateChanged) -> None:
    drive = Driver()
    drive.arrive(LONG, at=0.0)
    for began in (1.0, 2.9, 4.8):  # 1.8 s each, however slowly a rise is believed.
        drive(CRAWLS, at=began)
        assert drive(carries(50.0), at=began + 1.7) == []
        assert drive(well, at=began + 1.8) == []
    drive(CRAWLS, at=6.7)
    assert drive(e.TimerFired(), at=6.8) == []
    assert moved(drive(e.TimerFired(), at=6.7 + GRACE_S))


def test_lasting_slowness_moves_what_is_on_the_line_whatever_it_carries_meanwhile() -> None:
    drive = Driver()
    drive.arrive(LONG, at=0.0)
    drive(CRAWLS, at=1.0)
    assert drive(carries(9e6), at=2.0) == []
    assert drive(carries(100.0), at=2.5) == []
    assert moved(drive(e.TimerFired(), at=1.0 + GRACE_S))


def test_new_prompts_see_the_line_at_once() -> None:
    drive = Driver(policy=make_policy(SchedulerConfig(policy="auto")))
    drive.arrive(LONG, "before", at=0.0)
    drive(e.PrefillCompleted("before", 1), at=0.01)
    drive(CRAWLS, at=0.1)
    assert [command.engine for command in moved(drive.arrive(LONG, at=0.1))] == ["west-p0"]


def test_a_line_that_was_cut_for_a_moment_sends_the_rest() -> None:
    drive = Driver()
    drive.arrive(LONG, at=0.0)
    drive(CRAWLS, at=0.4)
    drive(e.LinkStateChanged("east", "west", up=False), at=0.5)
    assert drive(CRAWLS, at=2.0) == []
    assert drive(e.TimerFired(), at=2.5) == []
    assert moved(drive(e.TimerFired(), at=2.0 + GRACE_S))


def test_a_line_that_has_left_is_no_longer_slow() -> None:
    topo = topology()
    drive = Driver(topo)
    drive(CRAWLS, at=0.1)
    drive(e.TopologyChanged(msgspec.structs.replace(topo, links=())), at=0.2)
    drive(e.TopologyChanged(topo), at=0.3)
    drive.arrive(LONG, at=0.4)
    assert drive(e.TimerFired(), at=0.1 + GRACE_S) == []
