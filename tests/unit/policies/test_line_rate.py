"""A drop is believed at once, a rise little by little."""

from __future__ import annotations

from math import inf

from prfaas.policies.line_rate import LEAST_BYTES_PER_S, LineRate


def test_a_drop_is_believed_at_once_and_a_rise_in_doublings() -> None:
    rate = LineRate(100.0)
    rate.take(10.0, 5.0)
    assert rate.at(5.0) == rate.at(50.0) == 10.0
    rate.take(100.0, 50.0)
    assert [rate.at(at) for at in (50.0, 52.0, 54.0, 60.0)] == [10.0, 20.0, 40.0, 100.0]
    rate.take(30.0, 54.0)
    assert rate.at(54.0) == rate.at(99.0) == 30.0


def test_a_line_that_stands_is_tried_again_little_by_little() -> None:
    rate = LineRate(100e6)
    rate.stands(5.0)
    assert rate.at(5.0) == LEAST_BYTES_PER_S
    rate.take(100e6, 6.0)
    assert rate.at(25.0) < 1.1e6 * 1.1
    assert rate.at(40.0) == rate.told == 100e6
    rate.take(10.0, 50.0)
    rate.stands(51.0)
    assert rate.at(51.0) == 10.0


def test_a_line_without_a_limit_comes_back_too() -> None:
    rate = LineRate(inf)
    assert rate.at(0.0) == inf
    rate.take(10.0, 0.0)
    rate.take(inf, 0.0)
    assert rate.at(2.0) == 20.0
    assert rate.at(1e9) == inf
