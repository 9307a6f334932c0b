"""The two ends on their own: what the property tests do not pin down."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest

from prfaas.core.errors import InvariantError, LinkError, PeerError
from prfaas.link.api import Refusal, TransferKey, TransferOffer
from prfaas.link.protocol import lifecycle
from prfaas.link.protocol.frames import (
    HEADER_BYTES,
    Header,
    Kind,
    Reason,
    decode,
    pack,
    reason,
    unpack,
)
from prfaas.link.protocol.lifecycle import (
    RECEIVING_TRANSITIONS,
    SENDING_TRANSITIONS,
    SendingState,
    SendingStep,
)
from prfaas.link.protocol.receiving_end import ReceivingEnd
from prfaas.link.protocol.receiving_records import Completed, Failed, Withdrawn
from prfaas.link.protocol.sending_connection import SendingConnection
from prfaas.link.protocol.sending_end import SendingEnd
from prfaas.link.protocol.sending_records import Chunk, SendingTransfer

NOTHING = Header(Kind.ACK, 0, 0, 0, 0, 0)


class FakeConnection:
    def __init__(self) -> None:
        self.said: list[Kind] = []
        self.severed = False

    def reply(self, frame: bytes) -> None:
        self.said.append(unpack(memoryview(frame), max_chunk_bytes=1).kind)

    def sever(self) -> None:
        self.severed = True


class Memory:
    def views(self, offset: int, length: int) -> list[memoryview]:
        return [memoryview(bytearray(length))]


def an_offer(
    name: str = "t", *, total: int = 100, epoch: int = 1, allow_s: float = 10.0, priority: int = 0
) -> TransferOffer:
    return TransferOffer(TransferKey(name, 0, epoch), "x", 0, 1, total, allow_s, priority)


def quiet(*_: object) -> None: ...


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
            self.end.answered(self.transfer, Memory())


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
    rig.end.answered(rig.transfer, Memory())
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


# The sending end.


def opened(
    end: SendingEnd,
    name: str,
    size: int,
    *,
    priority: int = 0,
    step: int = 10**6,
    released: Callable[[int], None] = quiet,
) -> SendingTransfer:
    """An accepted transfer with all of its bytes added, in pieces of ``step``."""
    offer = an_offer(name, total=size, priority=priority)
    transfer = end.open(offer, quiet, quiet, now=0.0)
    data = memoryview(bytearray(size))
    for at in range(0, size, step):
        end.add(transfer, at, data[at : at + step], partial(released, at))
    frame, _ = end.take(1, chunk_bytes=100, now=0.0)
    assert isinstance(frame, bytes)
    accept = NOTHING._replace(kind=Kind.ACCEPT, handle=transfer.handle)
    end.heard(1, accept, "", retry=False, now=0.0)
    return transfer


def taken(end: SendingEnd, count: int) -> list[str]:
    names = []
    for _ in range(count):
        chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
        assert isinstance(chunk, Chunk)
        names.append(chunk.transfer.offer.key.transfer_id)
    return names


def test_the_urgent_go_first_and_equals_take_turns() -> None:
    end = SendingEnd()
    opened(end, "bulk", 1000, priority=9)
    assert taken(end, 2) == ["bulk", "bulk"]
    opened(end, "a", 300)
    opened(end, "b", 300)
    assert taken(end, 7) == ["a", "b", "a", "b", "a", "b", "bulk"]


def test_a_newcomer_gets_its_share_not_a_backlog() -> None:
    end = SendingEnd()
    opened(end, "old", 2000)
    taken(end, 10)
    opened(end, "new", 2000)
    assert sorted(taken(end, 6)) == ["new"] * 3 + ["old"] * 3


def test_who_had_nothing_to_send_for_a_moment_is_not_starved_by_a_newcomer() -> None:
    end = SendingEnd()
    old = opened(end, "old", 10_000)
    taken(end, 100)
    opened(end, "new", 2000)
    taken(end, 1)
    end.add(old, 10_000, memoryview(bytes(1000)), quiet)
    assert sorted(taken(end, 6)) == ["new"] * 3 + ["old"] * 3


def test_what_was_accepted_and_waits_for_a_connection_is_counted() -> None:
    end = SendingEnd()
    offered = end.open(an_offer("u"), quiet, quiet, now=0.0)
    end.add(offered, 0, memoryview(bytes(50)), quiet)
    assert end.queued_bytes == 0, "not accepted yet"
    end.take(1, chunk_bytes=100, now=0.0)
    transfer = opened(end, "t", 250, step=90)
    assert end.queued_bytes == 250
    chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
    assert isinstance(chunk, Chunk)
    assert end.queued_bytes == 160
    about = NOTHING._replace(handle=transfer.handle, digest=90)
    end.heard(1, about._replace(kind=Kind.NACK), "", retry=False, now=0.0)
    assert end.queued_bytes == 250
    end.heard(1, about, "", retry=False, now=0.0)
    assert end.queued_bytes == 160
    end.check_integrity()
    end.cancel(transfer, "enough")
    assert end.queued_bytes == 0


def test_a_restarted_receiver_fails_only_what_it_had_accepted() -> None:
    end, failed = SendingEnd(), list[str]()
    opened(end, "accepted", 1000)
    end.open(an_offer("offered"), quiet, failed.append, now=0.0)
    first, _ = end.take(1, chunk_bytes=100, now=0.0)
    end.restarted("west has restarted")
    assert end.counters.transfers_failed == 1
    end.lost(1, now=0.0)
    again, _ = end.take(2, chunk_bytes=100, now=0.0)
    assert first == again is not None
    assert end.take(2, chunk_bytes=100, now=0.0) == (None, None)
    assert failed == []


def test_a_receiver_may_refuse_for_a_day() -> None:
    """With pauses of at most a second, and a deadline that never grows on its way."""
    end, now = SendingEnd(), 1e6 + 0.1
    transfer = end.open(an_offer(allow_s=86400.0), quiet, quiet, now=now)
    refuse = NOTHING._replace(kind=Kind.REFUSE, handle=transfer.handle)
    for _ in range(2000):
        frame, _ = end.take(1, chunk_bytes=100, now=now)
        assert isinstance(frame, bytes)
        assert decode(frame[HEADER_BYTES:], TransferOffer).deadline_s <= 86400.0
        end.heard(1, refuse, "full", retry=True, now=now)
        now += 1.0
        end.tick(now=now)


def test_the_rate_decides_when_the_next_chunk_goes() -> None:
    end = SendingEnd(rate_bytes_per_s=1000.0)
    opened(end, "t", 1000)
    sent, now = 0, 0.0
    while now < 0.5:
        chunk, again_at = end.take(1, chunk_bytes=10, now=now)
        if chunk is None:
            assert again_at is not None
            assert again_at > now
            now = again_at
        else:
            sent += 10
    assert sent == pytest.approx(500, abs=30)


def test_a_cancel_is_repeated_until_the_receiver_has_heard_it() -> None:
    end = SendingEnd()
    transfer = opened(end, "t", 1000)
    end.cancel(transfer, "enough")
    first, _ = end.take(1, chunk_bytes=100, now=0.0)
    end.lost(1, now=0.0)
    second, _ = end.take(2, chunk_bytes=100, now=0.0)
    assert first == second is not None
    failed = NOTHING._replace(kind=Kind.FAILED, handle=transfer.handle)
    end.heard(2, failed, "enough", retry=False, now=0.0)
    assert not end.busy


def test_memory_is_released_after_the_write_that_uses_it() -> None:
    end = SendingEnd()
    transfer = opened(end, "t", 100)
    chunk, _ = end.take(1, chunk_bytes=100, now=0.0)
    assert isinstance(chunk, Chunk)
    end.cancel(transfer, "enough")
    assert len(end.events) == 1, "only the failure: a connection is still writing"
    end.written(chunk)
    assert len(end.events) == 2


def outbound(end: SendingEnd, chunk_bytes: int) -> SendingConnection:
    return SendingConnection(
        end, 1, guard=nullcontext(), chunk_bytes=chunk_bytes, keepalive_s=5.0, now=0.0
    )


def test_small_chunks_are_written_together_and_large_ones_alone() -> None:
    end, released = SendingEnd(), list[int]()
    transfer = opened(end, "t", 200, step=10, released=released.append)
    line = outbound(end, 100)
    line.fill(now=0.0)
    assert [len(view) for view in line.pending[1::2]] == [10] * 5, "half a chunk is enough"
    line.sent(sum(map(len, line.pending[:5])) + 1, now=0.0)
    assert [len(view) for view in line.pending] == [9, 44, 10, 44, 10]
    end.cancel(transfer, "enough")
    while end.events:
        end.events.popleft()()
    assert sorted(released) == [0, 10, *range(50, 200, 10)], "three are still being written"
    line.closed(now=0.0)
    while end.events:
        end.events.popleft()()
    assert sorted(released) == list(range(0, 200, 10))


def test_replies_are_heard_in_any_portions() -> None:
    for step in (1, 7, 44, 100, 4096):
        end = SendingEnd()
        opened(end, "t", 1000)
        line = outbound(end, 100)
        for _ in range(10):
            line.fill(now=0.0)
            line.sent(sum(map(len, line.pending)), now=0.0)
        replies = b"".join(
            pack(Kind.ACK, handle=1, offset=offset, digest=100) for offset in range(0, 1000, 100)
        )
        for at in range(0, len(replies), step):
            part = replies[at : at + step]
            line.get_buffer()[: len(part)] = part
            line.received(len(part), now=0.0)
        assert end.counters.transfers_completed == 1


def test_a_peer_that_rejects_us_later_is_quoted() -> None:
    line, words = outbound(SendingEnd(), 1), reason(Kind.REJECT, "too many connections")
    line.get_buffer()[: len(words)] = words
    with pytest.raises(PeerError, match="rejected: too many connections"):
        line.received(len(words), now=0.0)


def test_a_silent_connection_is_asked_and_then_given_up() -> None:
    line = outbound(SendingEnd(), 1)
    line.keep_alive(now=4.9)
    assert line.pending == []
    for now in (5.0, 10.0):
        line.keep_alive(now=now)
        assert unpack(line.pending[0], max_chunk_bytes=1).kind is Kind.PING
        line.sent(len(line.pending[0]), now=now)
    with pytest.raises(LinkError, match="no sign of life"):
        line.keep_alive(now=15.0)


def test_lifecycles_refuse_what_is_not_in_the_table() -> None:
    with pytest.raises(InvariantError, match="complete"):
        lifecycle.advance(SENDING_TRANSITIONS, SendingState.COMPLETE, SendingStep.ACCEPTED)
    for table in (SENDING_TRANSITIONS, RECEIVING_TRANSITIONS):
        drawing = lifecycle.diagram(table)
        assert drawing.startswith("stateDiagram-v2")
        assert drawing.count("-->") == len(table)
