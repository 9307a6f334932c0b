"""A line's rate among its senders, as its divider gives it."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.line_divider import LineDivider, divide
from prfaas.link.protocol.line_share import Demand, Grant, least_share

RATE, FAIR = 4000.0, 1000
LEAST = least_share(FAIR)
NAMES = ("a", "b", "c", "d")


class Line:
    """A divider and what it last granted each."""

    def __init__(self) -> None:
        self.divider = LineDivider(RATE, senders=NAMES, ident=7)
        self.granted: dict[str, Grant] = {}
        self.serial = 0

    def demand(self, name: str, need: int, now: float) -> None:
        """Who has been granted something confirms it."""
        self.serial += 1
        held = self.granted.get(name)
        demand = Demand(1, self.serial, int(now * 1e6), need, held.serial if held else 0, 7)
        self.granted |= dict(self.divider.demanded(name, demand, now=now))

    def settle(self, needs: dict[str, int], *, begins: float, seconds: float = 3.0) -> None:
        for tick in range(int(seconds * 10)):
            for name, need in needs.items():
                self.demand(name, need, begins + tick / 10)

    def limits(self) -> list[int]:
        return [self.granted[name].limit_bytes_per_s for name in NAMES]


def test_nobody_gets_more_than_it_needs_while_another_needs_more() -> None:
    assert divide(10, {"a": 1, "b": 20, "c": 4}) == {"a": 1, "c": 4, "b": 5}
    assert divide(10, {"a": 1, "b": 3}) == {"a": 4, "b": 6}


def test_all_that_need_much_have_their_fair_share() -> None:
    line = Line()
    line.settle(dict.fromkeys(NAMES, 4000), begins=0.0)
    assert line.limits() == [FAIR] * 4


def test_what_the_idle_leave_goes_to_who_needs_it_and_comes_back() -> None:
    line = Line()
    line.settle({"a": 4000, "b": 0, "c": 0, "d": 0}, begins=0.0)
    assert line.limits() == [RATE - 3 * LEAST, LEAST, LEAST, LEAST]
    line.settle({"a": 4000, "b": 4000, "c": 0, "d": 0}, begins=3.0)
    assert line.limits() == [2000 - LEAST, 2000 - LEAST, LEAST, LEAST]


def test_nothing_is_lent_that_was_not_confirmed() -> None:
    line = Line()
    line.demand("a", 4000, 0.0)
    for name in NAMES[1:]:
        line.demand(name, 0, 0.0)  # Their answers may not have arrived.
    line.demand("a", 4000, 0.1)
    assert line.granted["a"].limit_bytes_per_s == FAIR


def test_who_says_nothing_keeps_its_fair_share_unless_it_is_cut_off() -> None:
    line = Line()
    line.settle({"a": 4000, "b": 0, "c": 0}, begins=0.0)
    assert line.granted["a"].limit_bytes_per_s == RATE - FAIR - 2 * LEAST
    for tick in range(30):
        now = 3.0 + tick / 10
        line.divider.gone("d", now=now)
        for name, need in (("a", 4000), ("b", 0), ("c", 0)):
            line.demand(name, need, now)
    assert line.granted["a"].limit_bytes_per_s == RATE - 3 * LEAST


@pytest.mark.parametrize("name", ["a", "nobody"])
def test_what_is_old_or_of_nobody_is_not_answered(name: str) -> None:
    line = Line()
    line.demand("a", 100, 0.0)
    assert line.divider.demanded(name, Demand(1, 1, 0, 100, 0, 7), now=0.1) == []


def test_another_process_is_taken_at_its_word_from_the_first_demand_on() -> None:
    line = Line()
    line.settle({"a": 4000, "b": 0, "c": 0, "d": 0}, begins=0.0)
    [(name, grant), *_] = line.divider.demanded("b", Demand(2, 1, 0, 4000, 0, 0), now=3.0)
    assert (name, grant.limit_bytes_per_s) == ("b", LEAST)
    # It may soon have its fair share, which is owed to it: what was lent of that is taken back.
    line.demand("a", 4000, 3.1)
    assert line.granted["a"].limit_bytes_per_s <= RATE - FAIR - 2 * LEAST


def test_who_confirms_nothing_makes_the_division_no_dearer() -> None:
    line = Line()
    for serial in range(1, 1000):
        for session in (1, 1, 2):
            demand = Demand(session, 3 * serial, 0, 4000 * (serial % 2), 0, 0)
            line.divider.demanded("a", demand, now=1.0)
    assert max(len(sender.claims) for sender in line.divider._senders.values()) < 70
    line.demand("b", 4000, 1.0)
    assert line.granted["b"].limit_bytes_per_s == FAIR
    again = Demand(1, 9000, 0, 4000, 0, 0)
    assert [name for name, _ in line.divider.demanded("a", again, now=9.0)][:1] == ["a"]
