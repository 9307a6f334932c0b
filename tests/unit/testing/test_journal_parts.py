"""A gateway answers for what its own release has written into a journal, and for all of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.core.deployment import SchedulerConfig
from prfaas.scheduler.commands import AnyCommand, SetTimer
from prfaas.scheduler.events import EngineUp, RequestArrived
from prfaas.scheduler.journal import CostInputs, Entry, JournalOpened, LinesLost, encode
from prfaas.scheduler.replay import scheduler_from
from prfaas.scheduler.topology import ClusterSpec, EngineSpec, Topology
from prfaas.testing.journal_parts import JournalParts, replays

OPENED = JournalOpened(
    driver="gateway",
    unix_time=1e9,
    topology=Topology(
        (ClusterSpec("west", "pd"),), (EngineSpec("d1", "west", "decode"),), (), alignment_tokens=4
    ),
    scheduler=SchedulerConfig(policy="threshold"),
    costs=CostInputs(),
)
EVENTS = (EngineUp("d1"), RequestArrived("r", 3, 5))
OLD, NEW = Path("/old/src"), Path("/new/src")


def written(*, otherwise: AnyCommand | None = None) -> bytes:
    """What a gateway writes; ``otherwise``: a command that this release does not give."""
    scheduler = scheduler_from(OPENED)
    entries: list[tuple[float, Entry]] = [(0.0, OPENED)]
    for at, event in enumerate(EVENTS, 1):
        entries.append((at, event))
        entries += [(at, command) for command in scheduler.handle(event, now=at)]
    if otherwise is not None:
        entries.append((len(EVENTS), otherwise))
    return b"".join(encode(at, entry) for at, entry in entries)


def appended(journal: Path, *parts: tuple[Path, bytes]) -> JournalParts:
    """The file, by processes of these releases, one after the other."""
    found = JournalParts()
    for source, text in parts:
        found.begins(journal, source)
        with journal.open("ab") as file:
            file.write(text)
    return found


def test_what_another_release_decided_is_its_own(tmp_path: Path) -> None:
    journal, foreign = tmp_path / "g.jsonl", written(otherwise=SetTimer(9.0))
    parts = appended(journal, (OLD, foreign), (NEW, written()), (OLD, foreign), (NEW, written()))
    assert parts.of(journal, NEW) == [written()] * 2
    assert replays(parts.of(journal, NEW)) == ""
    assert "SetTimer" in replays(parts.of(journal, OLD))
    assert "SetTimer" in replays([journal.read_bytes()])


@pytest.mark.parametrize("at", [0, 1])
def test_every_part_of_this_release_is_compared(tmp_path: Path, at: int) -> None:
    texts = [written(), written()]
    texts[at] = written(otherwise=SetTimer(9.0))
    journal = tmp_path / "g.jsonl"
    parts = appended(journal, (NEW, texts[0]), (OLD, b"no journal\n"), (NEW, texts[1]))
    assert "SetTimer" in replays(parts.of(journal, NEW))


def test_a_part_that_says_nothing_does_not_replay(tmp_path: Path) -> None:
    journal = tmp_path / "g.jsonl"
    parts = appended(journal, (OLD, written()), (NEW, b""))
    assert replays(parts.of(journal, NEW)) == "nothing was written"


def test_a_line_that_its_writer_did_not_end_harms_nobody(tmp_path: Path) -> None:
    journal, whole = tmp_path / "g.jsonl", written()
    cut = whole + encode(9.0, EngineUp("d1"))[:-3]
    parts = appended(journal, (NEW, cut), (NEW, b"\n" + whole), (NEW, whole))
    assert replays(parts.of(journal, NEW)) == ""


def test_a_part_ends_where_lines_were_lost(tmp_path: Path) -> None:
    journal = tmp_path / "g.jsonl"
    lost = written() + encode(9.0, LinesLost(2)) + written(otherwise=SetTimer(9.0))
    parts = appended(journal, (NEW, lost), (NEW, written()))
    assert replays(parts.of(journal, NEW)) == ""
