"""What one sender may send over a shared line."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.line_share import GRANT_S, PLEDGE_S, Grant, LineShare, least_share

RATE, FAIR = 4000.0, 1000
LEAST = least_share(FAIR)


def settled(now: float = 100.0) -> LineShare:
    """One that has had its fair share for a while."""
    share = LineShare(RATE, senders=4, session=1, now=now - 10.0)
    assert share.limit(now=now) == FAIR
    return share


def grant(limit: int, *, serial: int = 1, divider: int = 7, asked_at: float = 100.0) -> Grant:
    return Grant(divider, serial, int(asked_at * 1e6), limit, FAIR)


def test_a_process_that_starts_begins_with_the_least_and_then_has_its_fair_share() -> None:
    share = LineShare(RATE, senders=4, session=1, now=0.0)
    assert share.limit(now=0.1) == LEAST == 10
    assert share.limit(now=PLEDGE_S) == LEAST
    assert share.limit(now=PLEDGE_S * 1.02) == FAIR


def test_one_alone_has_the_line_at_once() -> None:
    assert LineShare(RATE, senders=1, session=1, now=0.0).limit(now=0.0) == RATE


def test_a_lease_ends_with_the_time_of_its_demand() -> None:
    share = settled()
    assert share.granted(grant(3000), now=100.4)
    assert share.limit(now=100.9) == 3000
    assert share.limit(now=100.0 + GRANT_S) == FAIR


def test_a_pledge_is_kept_from_when_it_arrived() -> None:
    share = settled()
    assert share.granted(grant(50), now=100.4)
    assert share.limit(now=100.4 + PLEDGE_S) == 50
    assert share.limit(now=100.4 + 1.02 * PLEDGE_S) == FAIR


@pytest.mark.parametrize(
    "late",
    [
        grant(3000, serial=1),
        grant(3000, serial=3, divider=8),
        grant(3000, serial=3, asked_at=80.0),
        grant(3000, serial=3, asked_at=200.0),
    ],
    ids=["an older one", "another divider's", "from before it was connected", "from the future"],
)
def test_what_may_not_be_relied_upon_is_not_taken(late: Grant) -> None:
    share = settled()
    assert share.granted(grant(50, serial=2), now=100.0)
    assert not share.granted(late, now=100.1)
    assert share.limit(now=100.1) == 50


def test_another_divider_is_heard_once_the_pledge_is_over() -> None:
    share = settled()
    share.granted(grant(50), now=100.0)
    now = 100.0 + 1.02 * PLEDGE_S
    assert share.granted(grant(3000, divider=8, asked_at=now), now=now)
    assert share.limit(now=now) == 3000
    assert share.demand(10.0, now=now).divider == 8


def test_who_was_cut_off_begins_anew() -> None:
    share = settled()
    share.granted(grant(3000), now=100.0)
    share.connected(now=100.2)
    assert share.limit(now=100.2) == LEAST
    assert not share.granted(grant(3000, serial=2, asked_at=100.1), now=100.3)


def test_no_more_than_the_line_is_asked_for_or_taken() -> None:
    share = settled()
    assert share.demand(1e12, now=100.0).need_bytes_per_s == RATE
    share.granted(grant(2**62), now=100.0)
    assert share.limit(now=100.0) == RATE


@pytest.mark.parametrize(("limit", "fair"), [(0, 0), (0, 1), (0, FAIR), (5, 3), (2**62, 0)])
def test_no_word_of_a_divider_stops_a_line_or_outlasts_it(limit: int, fair: int) -> None:
    """However little it grants: it may be broken, and others of its line are not."""
    share = settled()
    assert share.granted(Grant(7, 1, int(100e6), limit, fair), now=100.0)
    for later in (100.0, 100.9, 110.0):
        assert 0 < share.limit(now=later) <= RATE
        assert share.fair_bytes_per_s >= min(LEAST, FAIR)
    now = 110.0
    assert share.granted(grant(3000, divider=8, asked_at=now), now=now)
    assert share.limit(now=now) == 3000
    assert share.limit(now=now + GRANT_S) == share.fair_bytes_per_s == FAIR


def test_of_two_fair_shares_the_smaller_counts() -> None:
    share = settled()
    share.granted(Grant(7, 1, int(100e6), 3000, FAIR // 2), now=100.0)
    assert share.limit(now=110.0) == FAIR // 2
    share.granted(Grant(7, 2, int(110e6), 3000, 2 * FAIR), now=110.0)
    assert share.limit(now=120.0) == FAIR
