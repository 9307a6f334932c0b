"""What became of transfers, for those who ask late."""

from __future__ import annotations

from prfaas.link.api import TransferKey
from prfaas.pool.lifecycle import ExportState, ReceptionState
from prfaas.pool.records import KEEP_S, MAX_RECORDS, Received, Sent, TransferRecords

KEY = TransferKey("x", 0, 1)


def test_records_join_ranks() -> None:
    records = TransferRecords()
    for rank in (0, 1):
        records.add_received(
            "x",
            rank,
            Received(100, ReceptionState.COMPLETE, None, 100, 5.0 + rank, 7.0 + rank),
            now=0,
        )
    view, over = records.view("x", ranks=2)
    assert over
    assert (view.state, view.bytes_stored) == ("complete", 200)
    assert (view.first_byte_at, view.completed_at) == (5.0, 8.0)
    assert records.view("x", ranks=3)[0].state == "receiving"
    records.add_received("x", 2, Received(100, ReceptionState.FAILED, "lost"), now=0)
    view, over = records.view("x", ranks=4)
    assert (view.state, view.reason, view.completed_at, over) == ("failed", "lost", None, True)


def test_the_sending_side() -> None:
    records = TransferRecords()
    sent = Sent(KEY, 100, ExportState.PENDING, bytes_acknowledged=40)
    records.add_sent(sent, now=0)
    view, over = records.view("x", ranks=1)
    assert not over
    assert view.state == "unknown"
    assert view.sent is not None
    assert (view.sent.state, view.sent.bytes_acknowledged) == ("sending", 40)
    sent.state, sent.completed_at, sent.bytes_acknowledged = ExportState.COMPLETE, 9.0, 100
    view, over = records.view("x", ranks=1)
    assert over
    assert view.sent is not None
    assert (view.sent.bytes_acknowledged, view.sent.completed_at) == (100, 9.0)


def test_an_end_keeps_a_record_but_brings_none_back() -> None:
    records = TransferRecords()
    records.add_sent(sent := Sent(KEY, 1, ExportState.SENDING), now=0.0)
    sent.state = ExportState.COMPLETE
    records.touch("x", now=KEEP_S)
    records.forget_old(now=2 * KEEP_S)
    assert len(records) == 1
    records.forget_old(now=2 * KEEP_S + 1.0)
    records.touch("x", now=2 * KEEP_S + 2.0)
    assert len(records) == 0


def test_what_is_forgotten_is_what_has_long_been_over() -> None:
    records = TransferRecords()
    records.add_received("open", 0, Received(1), now=0.0)
    records.add_received("over", 0, Received(1, ReceptionState.FAILED), now=1.0)
    records.cancel("never", now=2.0)
    records.add_received("late", 0, Received(1, ReceptionState.FAILED), now=KEEP_S)
    records.forget_old(now=KEEP_S)
    assert len(records) == 4
    records.forget_old(now=KEEP_S + 3.0)
    assert len(records) == 2
    assert records.received("open", 0) is not None
    assert records.received("late", 0) is not None
    assert not records.is_cancelled("never")


def test_many_records_are_forgotten_sooner_but_none_that_is_not_over() -> None:
    records = TransferRecords()
    records.add_received("open", 0, Received(1), now=0.0)
    for number in range(MAX_RECORDS + 10):
        records.cancel(f"c{number}", now=0.0)
    records.forget_old(now=0.0)
    assert len(records) == MAX_RECORDS
    assert records.received("open", 0) is not None
    assert not records.is_cancelled("c10")
    assert records.is_cancelled("c11")


def test_news_of_an_earlier_epoch_finds_nothing() -> None:
    records = TransferRecords()
    records.add_sent(Sent(KEY, 1, ExportState.SENDING), now=0.0)
    records.add_sent(later := Sent(TransferKey("x", 0, 2), 1, ExportState.SENDING), now=0.0)
    assert records.sent(KEY) is None
    assert records.sent(later.key) is later


def test_times_are_given_in_unix_seconds() -> None:
    records = TransferRecords()
    part = Received(1, ReceptionState.COMPLETE, None, 1, 5.0, 7.0)
    records.add_received("x", 0, part, now=7.0)
    view, _ = records.view("x", ranks=1, unix_at_zero=1000.0)
    assert (view.first_byte_at, view.completed_at) == (1005.0, 1007.0)
