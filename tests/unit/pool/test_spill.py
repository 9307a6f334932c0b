"""What goes to disk, in which order, what goes from it, and what is waited for."""

from __future__ import annotations

import pytest
from tests.unit.pool.test_cache import BLOCK, ROOT, prompt
from tests.unit.pool.test_cache import Rig as CacheRig

from prfaas.core.errors import CapacityError
from prfaas.core.prefixes import chain
from prfaas.link.api import TransferKey
from prfaas.pool.disk_events import (
    SpillFound,
    SpillRead,
    SpillUnreadable,
    SpillWriteFailed,
    SpillWritten,
)
from prfaas.pool.effects import (
    AnnounceCached,
    AnnounceEvicted,
    AnswerLoad,
    AnyEffect,
    DropSpilled,
    FailLoad,
    ReadSpilled,
    ReportFailure,
    SendSlot,
    StartSend,
    WriteSpilled,
)
from prfaas.pool.events import (
    CopyRequested,
    EngineConnected,
    LoadClosed,
    LoadOpened,
    PrefixPinned,
    ReceptionFailed,
    TimePassed,
    TransferCancelled,
)
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.loads import LEAST_S
from prfaas.pool.pool import Pool
from prfaas.pool.spill import AGAIN_S, PAUSE_S
from prfaas.pool.spill_format import ALIGN
from prfaas.testing.pool_kit import COUNT, EXPORT, SLOT

FILE = 2 * ALIGN


class Rig(CacheRig):
    """With room for four files. Effects for the disk are kept until a test carries them out."""

    def __init__(self, files: int = 4) -> None:
        self.disk: list[WriteSpilled | ReadSpilled] = []
        self.files: dict[str, KeptPrefix] = {}
        super().__init__()
        self.pool = Pool(
            "here",
            slot_bytes=SLOT,
            slot_count=COUNT,
            export_slots=EXPORT,
            engines=frozenset({"a", "b"}),
            cache_slots=6,
            disk_bytes=files * FILE,
        )
        for number, name in ((1, "a"), (2, "b")):
            self.say(EngineConnected(number, name, number, self.layout))

    def say(self, event: object) -> list[AnyEffect]:
        effects = super().say(event)  # type: ignore[arg-type]
        for effect in effects:
            if isinstance(effect, DropSpilled):
                self.files.pop(effect.key.transfer_id, None)
        self.disk += [e for e in effects if isinstance(e, WriteSpilled | ReadSpilled)]
        self.pool.check_integrity()
        return [e for e in effects if not isinstance(e, WriteSpilled | ReadSpilled | DropSpilled)]

    def disk_does(self, *, fails: str = "", full: bool = False) -> list[AnyEffect]:
        """The next thing."""
        effect = self.disk.pop(0)
        key = effect.what.key
        if isinstance(effect, ReadSpilled):
            return self.say(SpillUnreadable(key, fails) if fails else SpillRead(key))
        if fails:
            return self.say(SpillWriteFailed(key, fails, full))
        self.files[key.transfer_id] = effect.what
        return self.say(SpillWritten(key))

    def all_written(self) -> None:
        while self.disk:
            self.disk_does()

    def on_disk(self) -> list[str]:
        found = [entry.transfer_id for entry in self.pool.disk.views()]
        assert sorted(found) == sorted(self.files)
        return found

    def open_load(self, tokens: list[int], *, by: int = 1) -> list[AnyEffect]:

        self.loads += 1
        end = len(tokens) // BLOCK * BLOCK
        return self.say(LoadOpened(by, self.loads, 0, end, BLOCK, chain(ROOT, tokens, BLOCK)))


def test_what_is_cached_is_written_one_at_a_time_and_pinned_meanwhile() -> None:
    rig = Rig()
    for number in (1, 2, 3):
        rig.receive(f"t{number}", prompt(number, 1))
    assert [e.what.key.transfer_id for e in rig.disk] == ["t1"]
    assert rig.pool.snapshot().slots.held == 1
    rig.all_written()
    assert rig.on_disk() == ["t1", "t2", "t3"]
    assert rig.pool.snapshot().slots.held == 0


def test_what_memory_evicts_is_told_to_lie_on_disk_and_what_it_missed_is_gone() -> None:
    rig = Rig()
    rig.receive("t1", prompt(1, 1))
    rig.receive("t2", prompt(2, 1), slots=2)
    rig.disk_does()  # t1; t2 is being written
    rig.receive("t3", prompt(3, 1), slots=2)  # waits for its turn
    effects = rig.receive("t4", prompt(4, 1), slots=3)  # t1, then t3
    moved = [e for e in effects if isinstance(e, AnnounceCached | AnnounceEvicted)]
    told = [(e.key.transfer_id, getattr(e, "tier", "gone")) for e in moved]
    assert told == [("t4", "memory"), ("t1", "disk"), ("t3", "gone")]
    assert rig.pool.snapshot().counters.spill_missed == 1
    tiers = {e.key.transfer_id: e.tier for e in rig.pool.cached()}
    assert tiers == {"t1": "disk", "t2": "memory", "t4": "memory"}


def test_the_least_recently_used_file_goes_first_and_a_use_counts_for_what_it_stands_on() -> None:
    rig = Rig(files=3)
    whole = prompt(1, 2)
    rig.receive("early", whole[:16])
    rig.receive("late", whole, start=16)
    rig.receive("other", prompt(2, 1))
    rig.all_written()
    assert rig.on_disk() == ["late", "early", "other"]
    rig.load(whole)
    assert rig.on_disk() == ["other", "late", "early"]
    rig.receive("more", prompt(3, 1))
    rig.all_written()
    assert rig.on_disk() == ["late", "early", "more"]
    rig.receive("again", prompt(4, 1))
    rig.all_written()
    assert rig.on_disk() == ["early", "more", "again"], "an early block outlives the later"


def test_what_a_longer_one_has_wholly_is_not_kept_twice() -> None:
    rig = Rig()
    rig.receive("short", prompt(1, 1))
    rig.all_written()
    rig.receive("long", prompt(1, 2))
    rig.all_written()
    assert rig.on_disk() == ["long"]
    rig.say(SpillFound(rig.files["long"]))
    assert rig.pool.snapshot().counters.spill_found == 0


def another_life(rig: Rig, files: int = 4) -> Rig:
    """The agent again, with nothing but the files."""
    again = Rig(files)
    again.files = dict(rig.files)
    for what in list(rig.files.values()):
        again.say(SpillFound(what))
    return again


def filled(count: int = 3, *, slots: int = 1) -> Rig:
    rig = Rig()
    for number in range(1, count + 1):
        rig.receive(f"t{number}", prompt(number, 1), slots=slots)
        rig.all_written()
    return another_life(rig)


def test_a_smaller_disk_keeps_what_was_used_last() -> None:
    rig = another_life(filled(4), files=2)
    assert rig.on_disk() == ["t3", "t4"]


def test_a_load_waits_for_the_disk_and_others_join_it() -> None:
    rig = filled()
    assert rig.open_load(prompt(1, 1)) == []
    assert rig.open_load(prompt(1, 1), by=2) == []
    assert rig.pool.snapshot().slots.held == 1
    (told, first, second) = rig.disk_does()
    assert isinstance(told, AnnounceCached)
    assert told.tier == "memory"
    assert isinstance(first, AnswerLoad)
    assert isinstance(second, AnswerLoad)
    assert first.parts == second.parts
    rig.say(LoadClosed(1, 1))
    rig.say(LoadClosed(2, 2))
    slots = rig.pool.snapshot().slots
    assert (slots.held, slots.cached) == (0, 1)
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)
    assert not rig.disk


def test_a_path_may_lead_over_memory_and_disk() -> None:
    rig = Rig()
    whole = prompt(1, 3)
    rig.receive("one", whole[:16])
    rig.receive("two", whole[:32], start=16)
    rig.all_written()
    rig = another_life(rig)
    rig.receive("three", whole, start=32)
    assert rig.open_load(whole) == []
    reads = [e.what.key.transfer_id for e in rig.disk if isinstance(e, ReadSpilled)]
    assert sorted(reads) == ["one", "two"]
    assert rig.pool.snapshot().slots.held == 3
    while rig.disk:
        effects = rig.disk_does()
    (answer,) = [e for e in effects if isinstance(e, AnswerLoad)]
    assert [part.from_token for part in answer.parts] == [32, 16, 0]


def test_what_cannot_be_read_goes_and_who_waited_computes() -> None:
    rig = filled()
    rig.open_load(prompt(1, 1))
    gone, failed = rig.disk_does(fails="damaged")
    assert isinstance(gone, AnnounceEvicted)
    assert failed == FailLoad(1, 1, "damaged")
    assert rig.on_disk() == ["t2", "t3"]
    slots = rig.pool.snapshot().slots
    assert slots.held == slots.promised == slots.cached == 0


def test_a_load_waits_only_so_long_and_what_comes_later_is_cached() -> None:
    rig = filled()
    rig.open_load(prompt(1, 1))
    assert rig.at(LEAST_S - 0.1) == []
    assert rig.at(LEAST_S + 0.1) == [FailLoad(1, 1, "the disk is too slow")]
    (told,) = rig.disk_does()
    assert isinstance(told, AnnounceCached)
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)


def test_a_load_that_is_closed_before_its_answer_gets_none() -> None:
    rig = filled()
    rig.open_load(prompt(1, 1))
    rig.say(LoadClosed(1, 1))
    assert [type(e) for e in rig.disk_does()] == [AnnounceCached]
    assert rig.pool.snapshot().slots.held == 0


def test_what_is_read_is_a_reception_and_bounded() -> None:
    """Three slots are read at a time, of six for receptions."""
    rig = filled(slots=2)
    rig.open_load(prompt(1, 1))
    (failed,) = rig.open_load(prompt(2, 1))
    assert isinstance(failed, FailLoad)
    assert "3 slots at a time" in failed.reason
    rig.disk_does()
    rig.accepted("x", 4 * SLOT)
    (failed,) = rig.open_load(prompt(3, 1))
    assert isinstance(failed, FailLoad)
    assert "no 2 arena slots free" in failed.reason


def test_a_full_disk_is_not_filled_further_until_it_may_have_room() -> None:
    rig = Rig()
    for number in (1, 2):
        rig.receive(f"t{number}", prompt(number, 1))
        rig.all_written()
    rig.receive("t3", prompt(3, 1))
    rig.disk_does(fails="no space", full=True)
    rig.receive("t4", prompt(4, 1))
    assert not rig.disk, "for a while nothing is tried"
    rig.at(PAUSE_S - 1)
    assert not rig.disk
    rig.now = PAUSE_S
    rig.receive("t5", prompt(5, 1))
    rig.all_written()
    assert rig.on_disk()[-2:] == ["t4", "t5"]
    assert len(rig.on_disk()) == 2, "new ones take the places of old ones"
    rig.at(2 * PAUSE_S)
    rig.receive("t6", prompt(6, 1))
    rig.all_written()
    assert len(rig.on_disk()) == 3


def test_a_failure_is_told_to_the_log() -> None:
    rig = Rig()
    rig.receive("t1", prompt(1, 1))
    effects = rig.pool.handle(SpillWriteFailed(rig.disk[0].what.key, "I/O error"), now=0.0)
    (report,) = [e for e in effects if isinstance(e, ReportFailure)]
    assert (report.what, report.reason) == ("spill", "I/O error")


def test_an_entry_of_more_than_half_the_share_is_not_written() -> None:
    rig = Rig()
    rig.receive("large", prompt(1, 1), slots=4)
    assert not rig.disk
    assert rig.cached() == ["large"]


def test_where_receptions_need_the_room_it_is_written_later() -> None:
    rig = Rig()
    rig.receive("t1", prompt(1, 1))
    rig.disk_does(fails="I/O error")
    rig.receive("t2", prompt(2, 1))
    key = rig.accepted("x", 6 * SLOT)
    rig.at(PAUSE_S)
    assert not rig.disk
    rig.say(ReceptionFailed(key, "line lost"))
    rig.at(PAUSE_S + 2 * AGAIN_S)
    rig.all_written()
    assert rig.on_disk() == ["t2"]


def test_a_copy_of_what_is_on_disk_begins_when_it_is_read() -> None:
    rig = filled()
    assert rig.say(CopyRequested("t1", "c1", "there", 60.0)) == []
    sent = rig.view("c1").sent
    assert sent is not None
    assert sent.state != "failed"
    effects = rig.disk_does()
    assert [type(e) for e in effects] == [AnnounceCached, StartSend, SendSlot]


@pytest.mark.parametrize("why", ["unreadable", "cancelled", "deadline"])
def test_a_copy_that_waits_for_the_disk_can_fail(why: str) -> None:
    rig = filled()
    rig.say(CopyRequested("t1", "c1", "there", 3.0))
    if why == "unreadable":
        rig.disk_does(fails="damaged")
    elif why == "cancelled":
        rig.say(TransferCancelled("c1"))
    else:
        rig.at(4.0)
    sent = rig.view("c1").sent
    assert sent is not None
    assert sent.state == "failed"
    while rig.disk:
        assert not [e for e in rig.disk_does() if isinstance(e, StartSend)]
    rig.say(TimePassed())


def test_what_is_on_disk_alone_is_not_pinned() -> None:
    rig = filled()
    with pytest.raises(CapacityError, match="not cached here"):
        rig.say(PrefixPinned("t1"))
    rig.open_load(prompt(1, 1))
    with pytest.raises(CapacityError, match="being read from disk"):
        rig.say(PrefixPinned("t1"))
    rig.disk_does()
    rig.say(PrefixPinned("t1"))
    assert rig.pool.snapshot().pinned_slots == 1


def test_off_by_default() -> None:
    rig = CacheRig()
    rig.receive("t1", prompt(1, 1))
    assert rig.pool.snapshot().disk_bytes == 0
    assert not rig.pool.disk.views()
    assert TransferKey("t1", 0, 101) in {e.key for e in rig.pool.cached()}
