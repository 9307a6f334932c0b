"""What goes to disk, in which order, and what goes from it."""

from __future__ import annotations

from tests.unit.pool.spill_rig import Rig, another_life, filled
from tests.unit.pool.test_cache import Rig as CacheRig
from tests.unit.pool.test_cache import prompt

from prfaas.link.api import TransferKey
from prfaas.pool.disk_events import (
    SpillFound,
    SpillWriteFailed,
)
from prfaas.pool.effects import (
    AnnounceCached,
    AnnounceEvicted,
    ReportFailure,
)
from prfaas.pool.events import (
    ReceptionFailed,
)
from prfaas.pool.kept import KeptPrefix
from prfaas.pool.spill import AGAIN_S, PAUSE_S
from prfaas.testing.pool_kit import SLOT


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


def test_a_smaller_disk_keeps_what_was_used_last() -> None:
    rig = another_life(filled(4), files=2)
    assert rig.on_disk() == ["t3", "t4"]


def test_nothing_is_dropped_for_what_would_not_fit_even_then() -> None:
    rig = Rig(files=3)
    for number in (1, 2, 3):
        rig.receive(f"t{number}", prompt(number, 1))
    rig.all_written()
    rig = another_life(rig, files=3)
    for number in (1, 2):
        assert rig.open_load(prompt(number, 1)) == []  # their files are being read, and stay
    large = KeptPrefix(
        TransferKey("large", 0, 7), "another", Rig().prefix(prompt(9, 1)), 16, 5000, 16, False
    )
    rig.files["large"] = large
    rig.say(SpillFound(large))  # of two files' size
    assert sorted(rig.on_disk()) == ["t1", "t2", "t3"]


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


def test_off_by_default() -> None:
    rig = CacheRig()
    rig.receive("t1", prompt(1, 1))
    assert rig.pool.snapshot().disk_bytes == 0
    assert not rig.pool.disk.views()
    assert TransferKey("t1", 0, 101) in {e.key for e in rig.pool.cached()}
