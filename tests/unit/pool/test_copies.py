"""Cached prefixes copied from agent to agent: bound on both sides, pinned while sent, bounded."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.pool.test_cache import Rig, hybrid_layout, prompt

from prfaas.core.layout import KvLayout
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.effects import (
    AcceptOffer,
    AnnounceCached,
    AnswerLoad,
    AnyEffect,
    CancelSend,
    FailLoad,
    ForgetSend,
    SendSlot,
    StartSend,
    StopExport,
)
from prfaas.pool.events import (
    CopyAwaited,
    CopyRequested,
    EngineConnected,
    ExportBegun,
    ExportFinished,
    ExtentReleased,
    ImportOpened,
    LoadClosed,
    OfferReceived,
    RangeStored,
    SendCompleted,
    SendFailed,
    TransferCancelled,
    TransferDescribed,
    TransferReceived,
)
from prfaas.pool.pool import Pool
from prfaas.testing.mock_engine_rank import mock_layout
from prfaas.testing.pool_kit import COUNT, DIGEST, READERS, SLOT


def requested(rig: Rig, transfer_id: str = "x", copy_id: str = "copy") -> TransferOffer:
    start, *slots = rig.say(CopyRequested(transfer_id, copy_id, "there", 60.0))
    assert isinstance(start, StartSend)
    flat = 0
    for effect in slots:
        assert isinstance(effect, SendSlot)
        assert effect.key == start.offer.key
        for extent in effect.extents:
            assert extent.flat_offset == flat
            assert extent.arena_offset // SLOT == (extent.arena_end - 1) // SLOT == effect.slot
            flat = extent.flat_end
    assert flat == start.offer.total_bytes
    rig.pool.check_integrity()
    return start.offer


def offered(rig: Rig, offer: TransferOffer) -> TransferKey:
    (answer,) = rig.say(OfferReceived("there", offer))
    assert isinstance(answer, AcceptOffer)
    rig.say(RangeStored(offer.key, 0, offer.total_bytes))
    return offer.key


@pytest.mark.parametrize("layout", [mock_layout(), hybrid_layout()])
def test_what_one_has_cached_another_can_load(layout: KvLayout) -> None:
    here, there = Rig(layout), Rig(layout)
    tokens = prompt(1, 3)
    here.receive("x", tokens, slots=2)
    there.say(CopyAwaited("copy", here.prefix(tokens), 60.0))
    offer = requested(here)
    assert offer.readers == ()
    key = offered(there, offer)
    assert isinstance(there.load(tokens), FailLoad)  # not before all of it is there
    (announced,) = there.say(TransferReceived(key))
    assert isinstance(announced, AnnounceCached)
    assert announced.prefix == here.prefix(tokens)
    assert announced.stands_at == (None if layout == mock_layout() else 48)
    assert there.view("copy").state == "complete"
    assert isinstance(there.load(tokens), AnswerLoad)
    there.say(LoadClosed(1, there.loads))
    counts = there.pool.snapshot().slots
    assert (counts.cached, counts.held, counts.promised) == (2, 0, 0)


def test_what_is_being_copied_is_not_evicted_and_is_as_free_as_before_when_it_has_left() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    offer = requested(rig)
    for number in range(2, 12):
        rig.receive(f"y{number}", prompt(number, 1))
    assert "x" in rig.cached()
    assert rig.pool.snapshot().slots.held == 1
    assert rig.say(SendCompleted(offer.key)) == [ForgetSend(offer.key)]
    assert rig.pool.snapshot().slots.held == 1  # the link still reads it
    rig.say(ExtentReleased(offer.key, 0))
    rig.pool.check_integrity()
    assert rig.pool.snapshot().slots.held == 0
    assert rig.pool.snapshot().counters.copies_complete == 1
    sent = rig.view("copy").sent
    assert sent is not None
    assert (sent.state, sent.bytes_acknowledged) == ("complete", offer.total_bytes)


@pytest.mark.parametrize("end", ["failed", "cancelled", "deadline"])
def test_a_copy_that_ends_early_lets_go_of_what_it_read(end: str) -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    offer = requested(rig)
    if end == "cancelled":
        assert CancelSend(offer.key, "cancelled") in rig.say(TransferCancelled("copy"))
    elif end == "deadline":
        assert CancelSend(offer.key, "deadline passed") in rig.at(60.0)
    rig.say(SendFailed(offer.key, "the line is down"))
    rig.say(ExtentReleased(offer.key, 0))
    rig.pool.check_integrity()
    assert rig.pool.snapshot().slots.held == 0
    sent = rig.view("copy").sent
    assert sent is not None
    assert sent.state == "failed"
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)  # it is still cached here


def test_what_cannot_be_copied_says_why() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1))
    assert rig.say(CopyRequested("gone", "copy", "there", 60.0)) == []
    sent = rig.view("copy").sent
    assert sent is not None
    assert sent.reason == "transfer gone is not cached here"
    for copy_id, transfer_id, deadline_s, why in (
        ("no id!", "x", 60.0, "transfer id"),
        ("late", "x", 1e9, "no request here lasts so long"),
    ):
        assert rig.say(CopyRequested(transfer_id, copy_id, "there", deadline_s)) == []
        sent = rig.view(copy_id).sent
        assert sent is not None
        assert why in (sent.reason or "")


def test_copies_read_a_part_of_the_arena_at_a_time() -> None:
    rig = Rig()
    rig.receive("x", prompt(1, 1), slots=2)
    rig.receive("y", prompt(2, 1), slots=2)
    requested(rig)
    assert rig.say(CopyRequested("y", "second", "there", 60.0)) == []
    sent = rig.view("second").sent
    assert sent is not None
    assert "3 slots at a time" in (sent.reason or "")


@pytest.mark.parametrize("wrong", ["prefix", "digest", "readers", "unknown", "layout", "tokens"])
def test_nothing_is_cached_of_what_was_not_awaited_as_it_comes(wrong: str) -> None:
    """A gateway that is wrong, or a peer that is, puts no pages under a prefix's name."""
    here, there = Rig(), Rig()
    tokens = prompt(1, 2)
    here.receive("x", tokens)
    offer = requested(here)
    prefix = here.prefix(prompt(2, 2) if wrong == "prefix" else tokens)
    if wrong == "digest":
        offer = msgspec.structs.replace(offer, prompt_digest=DIGEST)
    elif wrong == "readers":
        offer = msgspec.structs.replace(offer, readers=READERS)
    elif wrong == "layout":
        other = mock_layout("float16").fingerprint()
        offer = msgspec.structs.replace(offer, layout_fingerprint=other)
    elif wrong == "tokens":
        offer = msgspec.structs.replace(offer, from_token=16)
    if wrong != "unknown":
        there.say(CopyAwaited("copy", prefix, 60.0))
    (answer,) = there.say(OfferReceived("there", offer))
    if wrong == "layout":
        assert not isinstance(answer, AcceptOffer)
        return
    there.say(RangeStored(offer.key, 0, offer.total_bytes))
    assert there.say(TransferReceived(offer.key)) == []
    there.say(TransferCancelled("copy"))
    assert there.cached() == []
    assert there.pool.snapshot().slots.free == COUNT
    assert isinstance(there.load(tokens), FailLoad)


def test_no_engine_imports_a_copy() -> None:
    here, there = Rig(), Rig()
    here.receive("x", prompt(1, 1))
    there.say(CopyAwaited("copy", here.prefix(prompt(1, 1)), 60.0))
    offer = requested(here)
    offered(there, offer)
    (failed,) = there.say(ImportOpened(1, "copy", 0, 16, SLOT, offer.prompt_digest))
    assert getattr(failed, "reason", "") == "the transfer is not meant for this engine"


def test_what_is_awaited_is_forgotten_after_its_deadline() -> None:
    here, there = Rig(), Rig()
    here.receive("x", prompt(1, 1))
    there.say(CopyAwaited("copy", here.prefix(prompt(1, 1)), 5.0))
    offer = requested(here)
    there.at(5.0)
    assert there.say(TransferReceived(offered(there, offer))) == []


def test_an_agent_without_a_cache_or_engines_keeps_nothing() -> None:
    here, there = Rig(), Rig()
    here.receive("x", prompt(1, 1))
    offer = requested(here)
    there.pool = Pool(
        "here", slot_bytes=SLOT, slot_count=COUNT, export_slots=4, engines=frozenset({"a"})
    )
    there.say(CopyAwaited("copy", here.prefix(prompt(1, 1)), 60.0))
    there.say(EngineConnected(1, "a", 1, mock_layout()))
    there.say(TransferReceived(offered(there, offer)))
    assert there.cached() == []
    assert there.pool.snapshot().slots.free == COUNT
    there.pool.check_integrity()


def handed_to_the_cache(rig: Rig, name: str, size: int, to: str = "") -> list[AnyEffect]:
    """An engine hands its own agent what nobody is to read."""
    effects = rig.say(ExportBegun(1, name, to, 0, 16, size, 60.0, DIGEST, ()))
    rig.say(TransferDescribed(1, name, rig.prefix(prompt(1, 1))))
    return effects


@pytest.mark.parametrize("to", ["", "here"])
def test_what_an_engine_hands_over_for_no_reader_is_cached_at_once(to: str) -> None:
    rig = Rig()
    assert handed_to_the_cache(rig, "x", SLOT, to) == []
    (announced,) = rig.fill("x", (0, SLOT))
    assert isinstance(announced, AnnounceCached)
    assert rig.say(ExportFinished(1, "x")) == []
    assert rig.cached() == ["x"]
    assert isinstance(rig.load(prompt(1, 1)), AnswerLoad)
    rig.pool.check_integrity()


def test_it_does_not_wait_for_room() -> None:
    rig = Rig()
    for number in range(3):
        rig.accepted(f"r{number}", 2 * SLOT)
    (stopped,) = handed_to_the_cache(rig, "x", SLOT)
    assert isinstance(stopped, StopExport)
    assert "no 1 arena slots free" in stopped.reason
    rig.pool.check_integrity()
