"""Which congestion control carries a line."""

from __future__ import annotations

from prfaas.link.protocol.congestion_choice import (
    FINDS_THE_RATE,
    KEEPS_THE_RATE,
    LOOK_BACK_S,
    LOSSY_S,
    MOST_RETRANSMITS,
    CongestionChoice,
)


def test_a_line_without_a_given_rate_is_left_to_who_finds_it() -> None:
    assert CongestionChoice().name(rate_is_given=False, now=0.0) == FINDS_THE_RATE


def test_a_given_rate_is_kept_through_accidents() -> None:
    choice = CongestionChoice()
    choice.observe(MOST_RETRANSMITS, now=0.0)
    choice.observe(MOST_RETRANSMITS, now=LOOK_BACK_S)
    assert choice.name(rate_is_given=True, now=LOOK_BACK_S) == KEEPS_THE_RATE
    choice.observe(1, now=LOOK_BACK_S + 1)
    assert choice.name(rate_is_given=True, now=LOOK_BACK_S + 1) == FINDS_THE_RATE


def test_a_clean_line_stays_at_its_rate() -> None:
    choice = CongestionChoice()
    for second in range(20_000):
        choice.observe(int(second % 10 == 0), now=second)
        assert choice.name(rate_is_given=True, now=second) == KEEPS_THE_RATE


def test_a_lossy_line_keeps_to_who_bears_it_until_nothing_is_lost() -> None:
    choice = CongestionChoice()
    names = []
    for second in range(2000):
        choice.observe(int(second < 1000), now=second)
        names.append(choice.name(rate_is_given=True, now=second))
    changes = [n for n in range(1, 2000) if names[n] != names[n - 1]]
    first, last = MOST_RETRANSMITS, 999 + (LOOK_BACK_S - MOST_RETRANSMITS) - 1 + LOSSY_S
    assert changes == [first, last]
    assert names[first] == FINDS_THE_RATE
