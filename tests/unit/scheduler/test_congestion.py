"""Prompts on a line that begins to crawl are prefilled elsewhere, if that is sooner."""

from __future__ import annotations

from prfaas.scheduler import commands as c
from prfaas.scheduler import events as e
from prfaas.testing.scheduler_driver import LONG, Driver, topology

# A byte a token, 10,000 tokens a second as long as nothing was seen: 1,792 tokens go over.
CRAWLS = e.LinkStateChanged("east", "west", up=True, rate_bytes_per_s=100.0, congestion=1.0)


def moved(commands: list[c.AnyCommand]) -> list[c.StartPrefill]:
    return [command for command in commands if isinstance(command, c.StartPrefill)]


def test_a_prompt_on_a_line_that_crawls_is_prefilled_elsewhere() -> None:
    drive = Driver()
    [first] = drive.arrive(LONG, at=0.0)
    assert first.engine == "east-1"
    commands = drive(CRAWLS, at=1.0)
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


def test_those_who_lack_most_go_first_and_leave_the_line_to_the_others() -> None:
    drive = Driver()
    for n in range(10):
        drive.arrive(LONG, f"{n}", at=0.0)
    slow = e.LinkStateChanged("east", "west", up=True, rate_bytes_per_s=4000.0, congestion=1.0)
    gone = {command.request_id for command in moved(drive(slow, at=0.1))}
    assert gone
    link = drive.scheduler.view.link("east", "west")
    assert link is not None
    assert link.transfers == 10 - len(gone) > 0


def test_where_everything_else_is_busier_still_it_stays() -> None:
    drive = Driver(topology(prefills=0))
    drive.arrive(LONG, at=0.0)
    engine = drive.scheduler.view.engines["west-d0"]
    engine.book(1, 1000.0, 0.0)  # type: ignore[attr-defined]
    assert moved(drive(CRAWLS, at=1.0)) == []


def test_a_line_is_not_looked_at_with_every_word_of_it() -> None:
    drive = Driver(topology(prefills=0))
    drive(CRAWLS, at=0.0)
    drive.arrive(LONG, at=0.1)
    assert drive(CRAWLS, at=0.2) != []
    drive.arrive(LONG, "again", at=0.3)
    assert drive(CRAWLS, at=0.4) == []
    assert drive(CRAWLS, at=0.7) != []


def test_a_line_that_was_cut_for_a_moment_sends_the_rest() -> None:
    drive = Driver()
    drive.arrive(LONG, at=0.0)
    drive(e.LinkStateChanged("east", "west", up=False), at=0.5)
    assert drive(CRAWLS, at=1.0) == []
    assert moved(drive(CRAWLS, at=4.0))
