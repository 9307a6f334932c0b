"""What comes back from disk, and who waits for it."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.pool.spill_rig import Rig, another_life, filled
from tests.unit.pool.test_cache import prompt

from prfaas.core.errors import CapacityError
from prfaas.pool.disk_events import SpillFound
from prfaas.pool.effects import (
    AnnounceCached,
    AnnounceEvicted,
    AnswerLoad,
    FailLoad,
    ReadSpilled,
    SendSlot,
    StartSend,
)
from prfaas.pool.events import (
    CopyRequested,
    LoadClosed,
    PrefixPinned,
    TimePassed,
    TransferCancelled,
)
from prfaas.pool.loads import LEAST_S
from prfaas.pool.records import KEEP_S
from prfaas.testing.pool_kit import SLOT


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


def of_two_ranks() -> Rig:
    """t1 lies on disk alone, and so does the part of another rank."""
    rig = filled(1)
    (first,) = rig.files.values()
    key = msgspec.structs.replace(first.key, rank=1)
    rig.say(SpillFound(msgspec.structs.replace(first, key=key, layout="of rank 1")))
    return rig


@pytest.mark.parametrize("why", ["unreadable", "cancelled", "too late", "at the last", "evicted"])
def test_of_a_copy_whose_ranks_did_not_all_come_from_disk_no_record_stays(why: str) -> None:
    rig = of_two_ranks()
    assert rig.say(CopyRequested("t1", "c1", "there", 3.0)) == []
    rig.disk_does()
    if why == "unreadable":
        rig.disk_does(fails="damaged")
    elif why == "cancelled":
        rig.say(TransferCancelled("c1"))
    elif why == "too late":
        rig.at(4.0)
    elif why == "at the last":
        rig.now = 3.0  # nobody has said yet that time has passed
        rig.disk_does()
    else:
        reading, rig.disk = rig.disk, []
        for number in range(10, 16):
            rig.receive(f"t{number}", prompt(number, 1))
            rig.all_written()
        rig.disk = reading
        assert not [e for e in rig.disk_does() if isinstance(e, StartSend)]
    sent = rig.view("c1").sent
    assert sent is not None
    assert sent.state == "failed"
    rig.at(10 * KEEP_S)
    assert rig.view("c1").sent is None


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
