"""Receptions: who gets memory, what becomes of it, and that nobody loses it while it is touched."""

from __future__ import annotations

import pytest

from prfaas.core.errors import InvariantError
from prfaas.link.api import TransferKey, TransferOffer
from prfaas.pool.effects import AbandonReception, AcceptOffer, AnswerImport, RefuseOffer, StopExport
from prfaas.pool.events import (
    EngineConnected,
    ExportBegun,
    ImportClosed,
    OfferReceived,
    OfferWithdrawn,
    RangeStored,
    ReceptionFailed,
    Reconfigured,
    TransferCancelled,
    TransferReceived,
)
from prfaas.pool.pool import Pool
from prfaas.testing.mock_engine_rank import MOCK_DIGEST, mock_layout
from prfaas.testing.pool_kit import SLOT, PoolRig


def test_a_transfer_from_another_agent(rig: PoolRig) -> None:
    answer = rig.offer("x", SLOT + 5)
    assert isinstance(answer, AcceptOffer)
    assert len(answer.slots) == 2
    rig.now = 3.0
    rig.say(RangeStored(answer.key, SLOT, 5))
    rig.say(RangeStored(answer.key, 0, SLOT))
    assert (rig.view("x").state, rig.view("x").bytes_stored) == ("receiving", SLOT + 5)
    rig.now = 4.0
    assert rig.say(TransferReceived(answer.key)) == []
    view = rig.view("x")
    assert (view.state, view.first_byte_at, view.completed_at) == ("complete", 3.0, 4.0)
    assert rig.pool.snapshot().counters.received_bytes == SLOT + 5


def test_an_offer_is_refused_for_now_or_for_good(rig: PoolRig) -> None:
    key = rig.accepted("x", 4 * SLOT)
    assert rig.refused("y", 3 * SLOT).retry
    assert rig.view("y").state == "unknown"
    assert "make the agent's arena larger" in rig.refused("z", 99 * SLOT).reason
    assert rig.view("z").state == "failed"
    assert rig.refused("x", SLOT).reason == "transfer x rank 0 is here already"
    assert rig.view("x").state == "receiving"
    rig.say(TransferCancelled("never"))
    assert rig.refused("never", SLOT).reason == "cancelled"
    rig.say(ReceptionFailed(key, "line lost"))
    rig.accepted("y", 3 * SLOT)


def test_an_offer_of_no_bytes_is_refused(rig: PoolRig) -> None:
    """However many there are, none would be too many for the arena."""
    for number in range(100):
        refusal = rig.refused(f"x{number}", 0)
        assert (refusal.reason, refusal.retry) == ("it is of no bytes", False)
    assert rig.pool.snapshot().receptions == 0


def test_an_offer_of_another_layout_is_refused(rig: PoolRig) -> None:
    key = TransferKey("x", 0, 1)
    effects = rig.say(OfferReceived("there", TransferOffer(key, "f" * 16, 0, 16, 5, 9.0)))
    (refusal,) = effects
    assert isinstance(refusal, RefuseOffer)
    assert "layout ffffffff of the sender" in refusal.reason


def test_memory_is_the_links_until_it_says_otherwise(rig: PoolRig) -> None:
    key = rig.accepted("x", SLOT)
    assert rig.say(TransferCancelled("x")) == [AbandonReception(key, "cancelled")]
    assert rig.say(TransferCancelled("x")) == [], "it has been told"
    rig.say(RangeStored(key, 0, SLOT))
    assert rig.pool.snapshot().slots.held == 1
    rig.say(TransferReceived(key))
    assert rig.pool.snapshot().slots.held == 0
    assert (rig.view("x").state, rig.view("x").reason) == ("failed", "cancelled")


def test_memory_is_a_readers_until_it_closes(rig: PoolRig) -> None:
    key = rig.accepted("x", SLOT, deadline_s=5.0)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    (answer,) = rig.open("x", SLOT)
    assert isinstance(answer, AnswerImport)
    assert rig.at(5.0) == []
    assert rig.view("x").reason == "deadline passed"
    assert rig.pool.snapshot().slots.held == 1
    rig.say(ImportClosed(2, "x"))
    assert rig.pool.snapshot().slots.held == 0


def test_a_key_is_not_offered_again_while_its_memory_lingers(rig: PoolRig) -> None:
    key = rig.accepted("x", SLOT)
    rig.say(RangeStored(key, 0, SLOT))
    rig.say(TransferReceived(key))
    rig.open("x", SLOT)
    rig.at(60.0)
    offer = TransferOffer(key, mock_layout().fingerprint(), 0, 16, SLOT, 60.0)
    (refusal,) = rig.say(OfferReceived("another", offer))
    assert isinstance(refusal, RefuseOffer)
    assert not refusal.retry
    rig.pool.check_integrity()
    rig.say(ImportClosed(2, "x"))
    assert rig.pool.snapshot().slots.held == 0


def test_the_link_cannot_complete_what_is_not_all_there(rig: PoolRig) -> None:
    key = rig.accepted("x", SLOT)
    rig.say(RangeStored(key, 0, 5))
    rig.say(TransferReceived(key))
    assert rig.view("x").reason == "completed by the link without all of its bytes"


def test_a_withdrawn_offer_is_failed_unless_there_is_more_to_say(rig: PoolRig) -> None:
    rig.say(OfferWithdrawn(TransferKey("x", 0, 1), "given up"))
    assert (rig.view("x").state, rig.view("x").reason) == ("failed", "given up")
    rig.accepted("y", SLOT)
    rig.say(OfferWithdrawn(TransferKey("y", 0, 1), "an earlier attempt"))
    assert rig.view("y").state == "receiving"


def test_news_of_what_is_not_here_is_a_bug(rig: PoolRig) -> None:
    with pytest.raises(InvariantError, match="which has no memory here"):
        rig.say(RangeStored(TransferKey("x", 0, 1), 0, 1))


def test_no_peer_holds_memory_longer_than_a_request_of_the_deployment_lasts() -> None:
    pool = Pool("here", slot_bytes=16, slot_count=8, export_slots=2, engines=frozenset({"a"}),
                longest_deadline_s=100.0)  # fmt: skip
    for deadline_s, kind in ((100.5, RefuseOffer), (100.0, AcceptOffer)):
        offer = TransferOffer(TransferKey("x", 0, 1), "f" * 16, 0, 16, 5, deadline_s)
        effects = pool.handle(OfferReceived("there", offer), now=0.0)
        (answer,) = [e for e in effects if isinstance(e, AcceptOffer | RefuseOffer)]
        assert isinstance(answer, kind), answer
        assert not isinstance(answer, RefuseOffer) or not answer.retry


def test_no_engine_holds_memory_longer_than_a_request_of_the_deployment_lasts() -> None:
    pool = Pool("here", slot_bytes=16, slot_count=8, export_slots=2, engines=frozenset({"a"}),
                longest_deadline_s=100.0)  # fmt: skip
    pool.handle(EngineConnected(1, "a", 7, mock_layout()), now=0.0)
    for name, deadline_s in (("x", 100.5), ("y", 100.0)):
        export = ExportBegun(1, name, "here", 0, 16, 5, deadline_s, MOCK_DIGEST, ("a",))
        stopped = [e for e in pool.handle(export, now=0.0) if isinstance(e, StopExport)]
        assert bool(stopped) == (deadline_s > 100), stopped


def test_how_long_a_request_lasts_is_as_the_deployment_says_now() -> None:
    """What a gateway takes over at once, agents refused until they were started anew."""
    pool = Pool("here", slot_bytes=16, slot_count=8, export_slots=2, engines=frozenset({"a"}),
                longest_deadline_s=100.0)  # fmt: skip
    for number, longest_s in enumerate((100.0, 200.0, 50.0)):
        pool.handle(Reconfigured(frozenset({"a"}), longest_s), now=0.0)
        for deadline_s in (longest_s, longest_s + 0.5):
            key = TransferKey(f"x{number}-{deadline_s}", 0, 1)
            offer = TransferOffer(key, "f" * 16, 0, 16, 5, deadline_s)
            effects = pool.handle(OfferReceived("there", offer), now=0.0)
            accepted = any(isinstance(effect, AcceptOffer) for effect in effects)
            assert accepted == (deadline_s == longest_s), effects
