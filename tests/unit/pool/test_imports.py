"""Imports: one answer each, and only bytes that are the ones meant."""

from __future__ import annotations

import msgspec
import pytest

from prfaas.core.errors import EngineError
from prfaas.core.extents import Extent
from prfaas.link.api import TransferKey
from prfaas.pool import imports
from prfaas.pool.effects import AnswerImport, FailImport
from prfaas.pool.events import (
    ConnectionClosed,
    EngineDropped,
    ImportClosed,
    ImportOpened,
    OfferWithdrawn,
    RangeStored,
    TransferCancelled,
    TransferReceived,
)
from prfaas.pool.imports import UNKNOWN_WAIT_S
from prfaas.testing.mock_engine_rank import mock_layout
from prfaas.testing.pool_kit import DIGEST, SLOT, PoolRig


def received(rig: PoolRig, name: str, size: int = SLOT, deadline_s: float = 60.0) -> TransferKey:
    key = rig.accepted(name, size, deadline_s=deadline_s)
    rig.say(RangeStored(key, 0, size))
    rig.say(TransferReceived(key))
    return key


def test_answered_when_the_transfer_is_complete(rig: PoolRig) -> None:
    key = rig.accepted("x", SLOT + 5)
    assert rig.open("x", SLOT + 5) == []
    rig.say(RangeStored(key, 0, SLOT + 5))
    assert rig.say(TransferReceived(key)) == [AnswerImport(2, "x", (Extent(0, 0, SLOT + 5),))], (
        "neighbours are joined"
    )
    assert rig.open("x", SLOT + 5) == [AnswerImport(2, "x", (Extent(0, 0, SLOT + 5),))]
    assert rig.pool.snapshot().imports == 1


def test_what_is_opened_again_and_again_before_it_is_here_is_the_engines_fault(
    rig: PoolRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "_MOST_WAITING", 3)
    key = rig.accepted("x", SLOT)
    for _ in range(3):
        assert rig.open("x", SLOT) == []
    with pytest.raises(EngineError, match="transfer x was opened 3 times"):
        rig.open("x", SLOT)
    assert rig.open("y", SLOT) == [], "another"
    rig.say(RangeStored(key, 0, SLOT))
    assert len(rig.say(TransferReceived(key))) == 3
    assert len(rig.open("x", SLOT)) == 1


def test_how_often_it_was_read_is_told_once_a_rank_has_ended_as_it_should(rig: PoolRig) -> None:
    received(rig, "x")

    def reads(ranks: int = 1) -> int:
        return rig.pool.transfer("x", ranks=ranks)[0].reads

    rig.open("x", SLOT)
    assert reads() == 0
    rig.say(ImportClosed(2, "x"))
    assert reads() == 1
    assert reads(ranks=2) == 0, "the other part is not here"
    rig.say(ImportClosed(2, "x"))
    assert reads() == 1, "nothing was open"
    rig.open("x", SLOT)
    rig.say(ConnectionClosed(2))
    assert reads() == 1, "it may have died on the way"


def test_every_reason_not_to(rig: PoolRig) -> None:
    received(rig, "x")
    asked = ImportOpened(2, "x", 0, 16, SLOT, DIGEST)
    for change, reason in (
        ({"total_bytes": 5}, "total_bytes differs: the engine asks for 5, the sender offered 16"),
        ({"from_token": 1}, "from_token differs: the engine asks for 1, the sender offered 0"),
        ({"to_token": 32}, "to_token differs: the engine asks for 32, the sender offered 16"),
    ):
        other = msgspec.structs.replace(asked, **change)
        assert rig.say(other) == [FailImport(2, "x", reason)]
    rig.say(TransferCancelled("x"))
    assert rig.say(asked) == [FailImport(2, "x", "cancelled")]
    rig.say(OfferWithdrawn(TransferKey("w", 0, 1), "given up"))
    assert rig.open("w", SLOT) == [FailImport(2, "w", "given up")]


def test_bytes_are_given_only_to_a_rank_that_reads_them_as_they_were_sent(rig: PoolRig) -> None:
    """The parts of a transfer are its sender's ranks', in the layout of each."""
    received(rig, "x")
    sent_as = mock_layout().fingerprint()
    asked = ImportOpened(2, "x", 0, 16, SLOT, DIGEST, 0, sent_as)
    other = msgspec.structs.replace(asked, layout_fingerprint=sent_as[::-1])
    reason = "the sender's KV layout differs from the one that this engine reads"
    assert rig.say(other) == [FailImport(2, "x", reason)]
    assert rig.say(msgspec.structs.replace(asked, part=1)) == []
    assert rig.at(UNKNOWN_WAIT_S) == [FailImport(2, "x", "no such transfer here", 1)]
    assert isinstance(rig.say(asked)[0], AnswerImport)


def test_an_unknown_transfer_may_still_be_announced(rig: PoolRig) -> None:
    assert rig.open("x", SLOT) == rig.open("y", SLOT) == []
    received(rig, "y")
    assert rig.at(UNKNOWN_WAIT_S - 0.1) == []
    assert rig.at(UNKNOWN_WAIT_S) == [FailImport(2, "x", "no such transfer here")]


def test_closing_answers_what_waits_and_ends_what_reads(rig: PoolRig) -> None:
    rig.accepted("x", SLOT)
    rig.open("x", SLOT)
    rig.open("x", SLOT)
    rig.open("x", SLOT, by=1)
    closed = FailImport(2, "x", "closed")
    assert rig.say(ImportClosed(2, "x")) == [closed, closed]
    assert rig.say(TransferCancelled("x"))[-1] == FailImport(1, "x", "cancelled")


@pytest.mark.parametrize("end", [EngineDropped(2), ConnectionClosed(2)])
def test_an_engine_that_is_not_listened_to_gets_no_answer(
    rig: PoolRig, end: EngineDropped | ConnectionClosed
) -> None:
    rig.open("x", SLOT)
    rig.say(end)
    assert rig.at(UNKNOWN_WAIT_S) == []


def test_a_dropped_engine_keeps_what_it_reads(rig: PoolRig) -> None:
    received(rig, "x")
    rig.open("x", SLOT)
    rig.say(EngineDropped(2))
    rig.say(TransferCancelled("x"))
    assert rig.pool.snapshot().slots.held == 1
    rig.say(ConnectionClosed(2))
    assert rig.pool.snapshot().slots.held == 0


def test_one_connection_may_read_an_attempt_and_its_successor(rig: PoolRig) -> None:
    received(rig, "x", deadline_s=5.0)
    rig.open("x", SLOT)
    rig.at(5.0)
    received(rig, "x")
    (answer,) = rig.open("x", SLOT)
    assert isinstance(answer, AnswerImport)
    rig.at(65.0)
    assert rig.pool.snapshot().slots.held == 2, "both are being read"
    rig.say(ImportClosed(2, "x"))
    assert rig.pool.snapshot().slots.held == 0
