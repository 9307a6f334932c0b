"""What is remembered of the latest, and which ranges are being received."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.receiving_records import ReceivingTransfer, Recent, Session
from prfaas.testing.link_ends import FakeConnection, an_offer


def test_the_oldest_is_forgotten() -> None:
    recent: Recent[int, str] = Recent()
    for number in range(5000):
        recent[number] = "complete"
    assert len(recent) == 4096
    assert 903 not in recent
    assert 904 in recent
    assert 4999 in recent


@pytest.mark.parametrize(
    ("start", "end", "claimed"),
    [(0, 10, False), (0, 11, True), (15, 16, True), (19, 30, True), (20, 30, False)],
)
def test_ranges_that_touch_do_not_overlap(start: int, end: int, claimed: bool) -> None:
    transfer = ReceivingTransfer(Session("east", 1), 1, an_offer(), 10.0, FakeConnection())
    transfer.claims[10] = 20
    assert transfer.claimed(start, end) is claimed
