"""Exports: one end each, and slots that the link still reads are not given to others."""

from __future__ import annotations

import pytest

from prfaas.core.errors import EngineError, InvariantError
from prfaas.core.extents import Extent
from prfaas.pool.effects import (
    AnswerImport,
    CancelSend,
    CopySlot,
    ForgetSend,
    GrantSlots,
    SendSlot,
    StartSend,
    StopExport,
)
from prfaas.pool.events import (
    ConnectionClosed,
    ExportAborted,
    ExportFinished,
    ExtentReleased,
    ReceptionFailed,
    SendCompleted,
    SendFailed,
    SendProgressed,
    SlotCopied,
    SlotFilled,
    SlotsRequested,
    TransferCancelled,
)
from prfaas.testing.pool_kit import SLOT, PoolRig


def test_a_remote_export_from_begin_to_end(rig: PoolRig) -> None:
    key = rig.send("x", SLOT)
    assert rig.fill("x", (0, SLOT)) == [SendSlot(key, 0, (Extent(0, 0, SLOT),))]
    rig.say(SendProgressed(key, 10))
    assert rig.say(ExportFinished(1, "x")) == []
    assert rig.view("x").sent.bytes_acknowledged_at_export_end == 10  # type: ignore[union-attr]
    assert rig.pool.snapshot().slots.queued == 1
    rig.say(ExtentReleased(key, 0))
    assert rig.pool.snapshot().slots.queued == 0
    assert rig.say(SendCompleted(key)) == [ForgetSend(key)]
    sent = rig.view("x").sent
    assert sent is not None
    assert (sent.state, sent.bytes_acknowledged) == ("complete", SLOT)
    assert rig.pool.snapshot().exports == 0


def test_a_slot_is_free_when_every_extent_is_released(rig: PoolRig) -> None:
    key = rig.send("x", 3 * SLOT)
    rig.fill("x", (0, 4), (SLOT, 4))
    rig.say(ExtentReleased(key, 0))
    assert rig.pool.snapshot().slots.queued == 1
    rig.say(ExtentReleased(key, 0))
    assert rig.pool.snapshot().slots.queued == 0
    with pytest.raises(InvariantError, match="released more often"):
        rig.say(ExtentReleased(key, 0))


def test_slots_of_a_failed_export_stay_the_links_until_it_lets_go(rig: PoolRig) -> None:
    key = rig.send("x", SLOT)
    rig.fill("x", (0, SLOT))
    rig.say(SlotsRequested(2, 2))
    rig.say(SlotsRequested(2, 2))
    assert rig.say(TransferCancelled("x")) == [
        StopExport(1, "x", "cancelled"),
        CancelSend(key, "cancelled"),
    ]
    assert rig.say(SlotsRequested(2, 1)) == []
    assert rig.say(SendFailed(key, "cancelled")) == [ForgetSend(key)]
    assert rig.say(ExportAborted(1, "x", "told to")) == []
    assert rig.pool.snapshot().exports == 0
    assert rig.say(ExtentReleased(key, 0)) == [GrantSlots(2, (0,))]


def test_an_end_comes_once(rig: PoolRig) -> None:
    key = rig.send("x", SLOT)
    rig.fill("x", (0, SLOT))
    rig.say(SendCompleted(key))
    assert rig.say(TransferCancelled("x")) == []
    assert rig.say(ExportAborted(1, "x", "late")) == []
    assert rig.view("x").sent.state == "complete"  # type: ignore[union-attr]
    counters = rig.pool.snapshot().counters
    assert (counters.exports_complete, counters.exports_failed) == (1, 0)


def test_late_news_of_an_earlier_attempt_changes_nothing(rig: PoolRig) -> None:
    old = rig.send("x", SLOT)
    rig.say(SendFailed(old, "line lost"))
    rig.say(ExportAborted(1, "x", "told to"))
    new = rig.send("x", SLOT)
    assert new.epoch > old.epoch
    rig.say(SendProgressed(old, 9))
    assert rig.say(SendCompleted(old)) == [ForgetSend(old)]
    sent = rig.view("x").sent
    assert sent is not None
    assert (sent.state, sent.bytes_acknowledged) == ("sending", 0)


def test_what_is_handed_over_twice_is_sent_once(rig: PoolRig) -> None:
    key = rig.send("x", 2 * SLOT)
    rig.fill("x", (0, 10))
    (effect,) = rig.fill("x", (4, 12))
    assert effect == SendSlot(key, 1, (Extent(10, SLOT + 6, 6),))
    assert rig.fill("x", (0, SLOT)) == []
    assert rig.pool.snapshot().slots.queued == 2


def test_an_engine_that_goes_fails_what_it_had_not_ended(rig: PoolRig) -> None:
    open_key, done_key = rig.send("open", SLOT), rig.send("done", SLOT)
    rig.fill("done", (0, SLOT))
    rig.say(ExportFinished(1, "done"))
    assert rig.say(ConnectionClosed(1)) == [CancelSend(open_key, "the exporting engine went away")]
    assert rig.say(SendCompleted(done_key)) == [ForgetSend(done_key)]
    assert rig.view("done").sent.state == "complete"  # type: ignore[union-attr]


def test_local_hand_offs_wait_in_order_and_go_on_when_memory_comes_free(rig: PoolRig) -> None:
    hog = rig.accepted("hog", 4 * SLOT)
    assert rig.begin("large", 3 * SLOT) == []
    assert rig.begin("small", SLOT) == []
    assert rig.fill("small", (0, SLOT)) == []
    assert rig.open("small", SLOT) == []
    assert rig.view("small").state == "unknown", "there is room for it, but it is not its turn"
    assert rig.pool.snapshot().slots.queued == 1
    (answer,) = rig.say(ReceptionFailed(hog, "line lost"))
    assert isinstance(answer, AnswerImport)
    assert answer.transfer_id == "small"
    assert rig.view("large").state == "receiving"
    assert rig.pool.snapshot().slots.queued == 0


def test_a_pending_hand_off_that_is_given_up_frees_its_slots(rig: PoolRig) -> None:
    rig.accepted("hog", 6 * SLOT)
    rig.begin("x", SLOT)
    rig.fill("x", (0, SLOT))
    rig.say(ExportAborted(1, "x", "client left"))
    assert rig.pool.snapshot().slots.queued == 0
    assert rig.view("x").sent.reason == "client left"  # type: ignore[union-attr]


def test_sparse_slots_are_packed_and_complete_only_once_copied(rig: PoolRig) -> None:
    rig.begin("x", SLOT)
    rig.open("x", SLOT)
    assert rig.fill("x", (0, 4), at=8) == []
    (copy,) = rig.fill("x", (4, 12))
    assert isinstance(copy, CopySlot)
    assert rig.view("x").state == "receiving"
    assert rig.pool.snapshot().slots.queued == 1, "the slot is read by the copy"
    assert [type(e) for e in rig.say(SlotCopied(copy.key, copy.slot))] == [AnswerImport]
    assert rig.view("x").state == rig.view("x").sent.state == "complete"  # type: ignore[union-attr]
    assert rig.pool.snapshot().slots.queued == 0


def test_memory_stays_while_a_copy_is_under_way(rig: PoolRig) -> None:
    rig.begin("x", SLOT)
    rig.fill("x", (0, 4), at=8)
    (copy,) = rig.fill("x", (4, 8))
    assert isinstance(copy, CopySlot)
    assert rig.say(TransferCancelled("x")) == [StopExport(1, "x", "cancelled")]
    assert rig.pool.snapshot().slots.held == 1
    rig.say(SlotCopied(copy.key, copy.slot))
    assert rig.pool.snapshot().slots.free == 10


def test_an_engine_that_says_nothing_more_is_forgotten_at_the_deadline(rig: PoolRig) -> None:
    key = rig.send("x", SLOT)
    rig.say(SendFailed(key, "line lost"))
    assert rig.pool.snapshot().exports == 1
    rig.at(60.0)
    assert rig.pool.snapshot().exports == 0


def test_a_stall_is_ended(rig: PoolRig) -> None:
    one, two = rig.send("one", 9 * SLOT), rig.send("two", 9 * SLOT)
    for flat in (0, SLOT):
        rig.fill("one", (flat, SLOT))
        rig.fill("two", (flat, SLOT))
    assert rig.say(SlotsRequested(2, 1)) == []
    rig.say(SendProgressed(one, 5))
    assert rig.at(1.9) == []
    why = "agent there took nothing while memory ran out"
    assert rig.at(2.0) == [StopExport(1, "two", why), CancelSend(two, why)]
    assert rig.pool.snapshot().counters.stalls == 1
    assert rig.at(2.1) == [], "it has time to work"


@pytest.mark.parametrize(
    "extent",
    [
        Extent(0, 0, SLOT + 1),
        Extent(0, SLOT, 1),
        Extent(-1, 0, 5),
        Extent(0, 0, 0),
        Extent(99, 0, 2),
    ],
)
def test_bytes_out_of_bounds_are_the_engines_fault(rig: PoolRig, extent: Extent) -> None:
    rig.send("x", 100)
    slot = rig.lease()
    before = rig.pool.snapshot()
    with pytest.raises(EngineError):
        rig.say(SlotFilled(1, "x", slot, (extent,)))
    assert rig.pool.snapshot() == before


def test_nobody_hands_over_for_another(rig: PoolRig) -> None:
    rig.send("x", SLOT)
    slot = rig.lease(by=2)
    assert rig.say(SlotFilled(2, "x", slot, (Extent(0, slot * SLOT, SLOT),))) == []
    assert rig.pool.snapshot().slots.free == 10
    rig.say(ExportAborted(2, "x", "not mine"))
    assert rig.view("x").sent.state == "sending"  # type: ignore[union-attr]


def test_refusals_name_the_reason(rig: PoolRig) -> None:
    rig.send("x", SLOT)
    rig.say(TransferCancelled("gone"))
    for name, to, size, reason in (
        ("x", "there", SLOT, "this transfer is being exported already"),
        ("gone", "there", SLOT, "cancelled"),
        ("../x", "there", SLOT, "a transfer id is 1 to 64 characters of A-Z a-z 0-9 _ -"),
        ("empty", "there", 0, "there is nothing to transfer"),
    ):
        assert rig.begin(name, size, to=to) == [StopExport(1, name, reason)]
    (start,) = rig.begin("fine", SLOT, to="there")
    assert isinstance(start, StartSend)
