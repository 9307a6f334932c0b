"""The key of names is exchanged: what is cached is forgotten, what goes on goes on."""

from __future__ import annotations

import pytest
from tests.unit.pool.spill_rig import Rig as DiskRig
from tests.unit.pool.spill_rig import another_life, filled
from tests.unit.pool.test_cache import Rig, prompt
from tests.unit.pool.test_copies import offered, requested

from prfaas.core.errors import CapacityError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.disk_events import SpillFound
from prfaas.pool.effects import (
    AcceptOffer,
    AnnounceCached,
    AnnounceEvicted,
    AnswerLoad,
    CancelSend,
    FailLoad,
)
from prfaas.pool.events import (
    CopyAwaited,
    CopyRequested,
    ExtentReleased,
    ImportClosed,
    ImportOpened,
    LoadClosed,
    NamesChanged,
    OfferReceived,
    PrefixPinned,
    RangeStored,
    SendFailed,
    TransferCancelled,
    TransferDescribed,
    TransferReceived,
)
from prfaas.testing.pool_kit import COUNT, DIGEST, READERS, SLOT


def test_what_is_cached_is_forgotten_and_what_is_read_stays_until_it_is_read_no_more() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    rig.receive("y", prompt(2, 1))
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)
    read = rig.loads
    gone = rig.say(NamesChanged())
    assert {e.key.transfer_id for e in gone if isinstance(e, AnnounceEvicted)} == {"x", "y"}
    rig.pool.check_integrity()
    assert rig.pool.cached() == []
    assert isinstance(rig.load(prompt(1, 1)), FailLoad)
    assert isinstance(rig.load(prompt(2, 1)), FailLoad)
    assert rig.pool.snapshot().slots.held == 1, "the engine reads it"
    with pytest.raises(CapacityError, match="not cached here"):
        rig.say(PrefixPinned("x"))
    assert rig.say(LoadClosed(1, read)) == []
    rig.pool.check_integrity()
    assert rig.pool.snapshot().slots.free == COUNT
    rig.receive("z", prompt(1, 1))
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad), "what comes now is cached as ever"


def test_a_transfer_under_way_arrives_and_is_not_kept_under_its_old_name() -> None:
    rig = Rig()
    key = TransferKey("x", 0, 7)
    offer = TransferOffer(
        key, rig.layout.fingerprint(), 0, 16, SLOT, 60.0, prompt_digest=DIGEST, readers=READERS
    )
    (answer,) = rig.say(OfferReceived("there", offer))
    assert isinstance(answer, AcceptOffer)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    rig.say(ImportOpened(2, "x", 0, 16, SLOT, DIGEST))
    rig.say(TransferDescribed(2, "x", rig.prefix(prompt(1, 1))))
    rig.say(NamesChanged())
    assert rig.view("x").state == "complete"
    rig.say(ImportClosed(2, "x"))
    assert not any(isinstance(e, AnnounceCached) for e in rig.say(TransferCancelled("x")))
    rig.pool.check_integrity()
    assert rig.pool.snapshot().slots.free == COUNT


def test_copies_and_pins_end_and_what_was_awaited_is_not_kept() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    rig.receive("y", prompt(2, 1))
    rig.say(PrefixPinned("y"))
    offer = requested(rig)
    why = "the cache key has been exchanged"
    assert CancelSend(offer.key, why) in rig.say(NamesChanged())
    sent = rig.view("copy").sent
    assert sent is not None
    assert (sent.state, sent.reason) == ("failed", why)
    rig.say(SendFailed(offer.key, why))
    rig.say(ExtentReleased(offer.key, 0))
    rig.pool.check_integrity()
    found = rig.pool.snapshot()
    assert (found.pinned, found.pinned_slots, found.slots.free) == ((), 0, COUNT)
    rig.say(CopyRequested("x", "again", "there", 60.0))
    sent = rig.view("again").sent
    assert sent is not None
    assert sent.reason == "transfer x is not cached here"

    there = Rig()
    there.say(CopyAwaited("before", there.prefix(prompt(1, 1)), 60.0))
    copied = TransferOffer(
        TransferKey("before", 0, 9), there.layout.fingerprint(), 0, 16, SLOT, 60.0,
        prompt_digest=there.prefix(prompt(1, 1)).digest(), readers=(),
    )  # fmt: skip
    key = offered(there, copied)
    there.say(NamesChanged())
    there.say(TransferReceived(key))
    there.pool.check_integrity()
    assert there.cached() == []


def test_no_file_of_before_stays_on_disk_or_comes_onto_it() -> None:
    rig = DiskRig()
    rig.receive("x", prompt(1, 1))
    rig.all_written()
    rig.receive("y", prompt(2, 1))  # It is being written.
    rig.say(NamesChanged())
    rig.all_written()
    assert rig.on_disk() == []
    rig.receive("z", prompt(3, 1))
    rig.all_written()
    assert rig.on_disk() == ["z"]


def test_what_is_being_read_from_disk_is_answered_or_fails_and_is_not_kept() -> None:
    for fails in ("", "it is not there any more"):
        rig = filled(2)
        assert rig.open_load(prompt(1, 1)) == []
        rig.say(NamesChanged())
        (answer,) = (e for e in rig.disk_does(fails=fails) if isinstance(e, AnswerLoad | FailLoad))
        assert isinstance(answer, FailLoad if fails else AnswerLoad)
        rig.say(LoadClosed(1, rig.loads))
        rig.pool.check_integrity()
        assert rig.pool.snapshot().slots.free == COUNT
        assert rig.on_disk() == []


def test_what_an_earlier_life_has_left_is_dropped_where_it_is_found_late() -> None:
    before = DiskRig()
    before.receive("x", prompt(1, 1))
    before.all_written()
    again = another_life(before, files=4)
    assert again.on_disk() == ["x"]
    late = DiskRig()
    late.files = dict(before.files)
    late.say(NamesChanged())
    late.say(SpillFound(before.files["x"]))
    assert late.on_disk() == []
