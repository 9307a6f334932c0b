"""The receiving end on its own: what the property tests do not pin down."""

from __future__ import annotations

import pytest

from prfaas.core.errors import PeerError
from prfaas.link.api import Refusal, TransferKey
from prfaas.link.protocol.frames import Header, Kind, Reason
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.receiving_records import Completed, Failed, Withdrawn
from prfaas.testing.link_ends import AnyMemory, FakeConnection, an_offer


def data(offset: int, length: int, handle: int = 1) -> Header:
    return Header(Kind.DATA, 0, length, handle, offset, 0)


def query(offset: int, length: int, lost: int) -> Header:
    return Header(Kind.QUERY, lost, 0, 1, offset, length)


class Receiving:
    """A end with two connections and, unless told otherwise, an accepted transfer."""

    def __init__(self, *, accept: bool = True, **settings: float) -> None:
        self.end = ReceivingEnd(**settings)  # type: ignore[arg-type]
        self.one, self.two = FakeConnection(), FakeConnection()
        self.session = self.end.opened("east", 1, 1, self.one)
        self.end.opened("east", 1, 2, self.two)
        self.transfer = self.end.offer(self.session, self.one, 1, an_offer(), now=0.0)
        assert self.transfer is not None
        if accept:
            self.end.answered(self.transfer, AnyMemory())


def test_a_range_being_written_is_written_by_nobody_else() -> None:
    rig = Receiving()
    claim = rig.end.claim(rig.session, rig.one, data(0, 50))
    assert claim is not None
    assert rig.end.claim(rig.session, rig.two, data(0, 50)) is None
    assert rig.two.said == [Kind.NACK]
    rig.end.settle(claim, rig.one, intact=True)
    assert rig.end.claim(rig.session, rig.two, data(0, 50)) is None
    assert rig.two.said == [Kind.NACK, Kind.ACK]
    with pytest.raises(PeerError, match="cuts a range"):
        rig.end.claim(rig.session, rig.two, data(40, 20))


def test_a_query_waits_for_the_lost_connections_reader() -> None:
    rig = Receiving()
    claim = rig.end.claim(rig.session, rig.one, data(0, 50))
    rig.end.query(rig.session, rig.two, query(0, 50, lost=1))
    assert rig.one.severed
    assert rig.two.said == []
    rig.end.closed(rig.session, 1, claim, now=1.0)
    assert rig.two.said == [Kind.NACK]
    with pytest.raises(PeerError, match="the connection it came over"):
        rig.end.query(rig.session, rig.two, query(0, 50, lost=2))


def test_an_ended_transfer_fails_only_when_no_one_writes_its_memory() -> None:
    rig = Receiving()
    claim = rig.end.claim(rig.session, rig.one, data(0, 50))
    assert claim is not None
    rig.end.tick(now=10.0)
    assert list(rig.end.events) == []
    rig.end.settle(claim, rig.one, intact=True)
    assert list(rig.end.events) == [Failed(an_offer(), "deadline passed before all bytes arrived")]
    assert rig.end.claim(rig.session, rig.two, data(50, 50)) is None
    assert rig.two.said[-1] is Kind.FAILED


def test_a_newer_epoch_replaces_an_older_one_but_not_the_reverse() -> None:
    rig = Receiving()
    assert rig.end.offer(rig.session, rig.one, 2, an_offer(epoch=1), now=0.0) is None
    assert rig.one.said[-1] is Kind.REFUSE
    assert list(rig.end.events) == []
    assert rig.end.offer(rig.session, rig.one, 3, an_offer(epoch=2), now=0.0) is None
    assert isinstance(rig.end.events.pop(), Failed)
    again = rig.end.offer(rig.session, rig.one, 3, an_offer(epoch=2), now=0.1)
    assert again is not None


def test_a_transfer_cancelled_while_the_sink_is_asked_gives_its_memory_back() -> None:
    rig = Receiving(accept=False)
    assert rig.transfer is not None
    rig.end.cancel(rig.session, rig.one, 1, Reason("changed my mind"))
    assert list(rig.end.events) == []
    rig.end.answered(rig.transfer, AnyMemory())
    assert list(rig.end.events) == [Failed(an_offer(), "changed my mind")]
    rig = Receiving(accept=False)
    assert rig.transfer is not None
    rig.end.cancel(rig.session, rig.one, 1, Reason("changed my mind"))
    rig.end.answered(rig.transfer, Refusal("full"))
    assert list(rig.end.events) == [Withdrawn(TransferKey("t", 0, 1), "changed my mind")]


def test_a_cancel_that_comes_without_its_offer_is_told_once() -> None:
    rig, key = Receiving(), TransferKey("late", 0, 1)
    for _ in range(2):
        rig.end.cancel(rig.session, rig.one, 7, Reason("deadline passed", key=key))
        assert rig.one.said[-1] is Kind.FAILED
    assert list(rig.end.events) == [Withdrawn(key, "deadline passed")]


def test_a_cancel_is_answered_over_the_connection_that_brought_it() -> None:
    rig = Receiving()
    claim = rig.end.claim(rig.session, rig.one, data(0, 50))
    assert claim is not None
    for _ in range(2):  # the second finds it ending: a connection still writes into its memory
        rig.end.cancel(rig.session, rig.two, 1, Reason("enough"))
    assert (rig.one.said, rig.two.said) == ([Kind.ACCEPT], [Kind.FAILED, Kind.FAILED])
    rig.end.settle(claim, rig.one, intact=True)
    assert list(rig.end.events) == [Failed(an_offer(), "enough")]


def test_nobody_withdraws_what_another_has_offered() -> None:
    rig, stranger = Receiving(accept=False), FakeConnection()
    assert rig.transfer is not None
    rig.end.answered(rig.transfer, Refusal("full", retry=True))
    other = rig.end.opened("north", 1, 1, stranger)
    rig.end.cancel(other, stranger, 5, Reason("ha", key=an_offer().key))
    assert stranger.said == [Kind.FAILED]
    assert list(rig.end.events) == []
    rig.end.cancel(rig.session, rig.one, 1, Reason("enough", key=an_offer().key))
    assert list(rig.end.events) == [Withdrawn(an_offer().key, "enough")]


def test_a_sender_that_stays_away_is_given_up() -> None:
    rig = Receiving(peer_grace_s=5.0)
    rig.end.closed(rig.session, 1, None, now=1.0)
    rig.end.closed(rig.session, 2, None, now=2.0)
    rig.end.tick(now=6.9)
    assert list(rig.end.events) == []
    rig.end.tick(now=7.0)
    assert isinstance(rig.end.events.pop(), Failed)


def test_late_questions_about_a_complete_transfer_get_the_truth() -> None:
    rig = Receiving()
    claim = rig.end.claim(rig.session, rig.one, data(0, 100))
    assert claim is not None
    rig.end.settle(claim, rig.one, intact=True)
    assert isinstance(rig.end.events.pop(), Completed)
    rig.end.query(rig.session, rig.two, query(0, 100, lost=9))
    assert rig.end.claim(rig.session, rig.two, data(0, 100)) is None
    assert rig.two.said == [Kind.ACK, Kind.ACK]


def test_gaps_offers_and_bounds_are_limited() -> None:
    rig = Receiving(max_transfers=1)
    assert rig.end.offer(rig.session, rig.one, 2, an_offer("u"), now=0.0) is None
    assert rig.one.said[-1] is Kind.REFUSE
    with pytest.raises(PeerError, match="of 100 bytes"):
        rig.end.claim(rig.session, rig.one, data(90, 11))
    with pytest.raises(PeerError, match="exists already"):
        rig.end.opened("east", 1, 2, FakeConnection())
    waiting = Receiving(accept=False)
    with pytest.raises(PeerError, match="before ACCEPT"):
        waiting.end.claim(waiting.session, waiting.one, data(0, 10))


def test_what_one_peer_has_is_bounded_and_others_have_as_much() -> None:
    rig = Receiving(max_transfers=2)
    for number in range(2, 9):
        rig.end.opened("east", number, 1, FakeConnection())
    with pytest.raises(PeerError, match="has 8 sessions here already"):
        rig.end.opened("east", 9, 1, FakeConnection())
    again = rig.end.opened("east", 8, 2, rig.two)
    assert rig.end.offer(again, rig.two, 1, an_offer("second"), now=0.0) is not None
    assert rig.end.offer(again, rig.two, 2, an_offer("third"), now=0.0) is None
    assert rig.two.said == [Kind.REFUSE]
    other = rig.end.opened("north", 1, 1, rig.one)
    assert rig.end.offer(other, rig.one, 1, an_offer("third"), now=0.0) is not None


def test_gaps_of_all_transfers_of_a_session_are_bounded() -> None:
    rig = Receiving()
    for handle in range(2, 5):
        rig.end.offer(rig.session, rig.one, handle, an_offer(f"t{handle}", total=10**9), now=0.0)
        rig.end.answered(rig.session.transfers[handle], AnyMemory())

    def fill(handle: int, chunks: int) -> None:
        for number in range(chunks):
            claim = rig.end.claim(rig.session, rig.one, data(2 * number, 1, handle))
            assert claim is not None
            rig.end.settle(claim, rig.one, intact=True)

    for handle in (2, 3):
        with pytest.raises(PeerError, match="too many gaps"):
            fill(handle, 65537)
    with pytest.raises(PeerError, match="too many gaps"):
        fill(4, 1)
    rig.end.cancel(rig.session, rig.one, 2, Reason("enough"))
    fill(4, 1)


def test_of_a_senders_reasons_a_line_is_remembered() -> None:
    rig = Receiving()
    rig.end.cancel(rig.session, rig.one, 1, Reason("x" * 4000))
    rig.end.cancel(rig.session, rig.one, 7, Reason("y" * 4000))
    assert rig.session.outcomes == {1: "x" * 200, 7: "y" * 200}
