"""A rate with a burst, on a clock of the test's own."""

from __future__ import annotations

import pytest

from prfaas.gateway.token_bucket import TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=4.0, now=0.0)
    for _ in range(4):
        assert bucket.wait_s(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(0.5)
    assert bucket.wait_s(1, 0.5) == 0
    assert bucket.wait_s(1, 1e9) == bucket.wait_s(4, 1e9) == 0


def test_more_than_it_holds_is_given_when_it_is_full_and_leaves_a_debt() -> None:
    bucket = TokenBucket(rate=1.0, burst=10.0, now=0.0)
    assert bucket.wait_s(25, 0.0) == 0
    bucket.take(25, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(16.0)
    assert bucket.wait_s(1, 16.0) == 0


def test_another_rate_forgives_nothing() -> None:
    bucket = TokenBucket(rate=1.0, burst=10.0, now=0.0)
    bucket.take(10, 0.0)
    bucket.configure(rate=5.0, burst=5.0, now=0.0)
    assert bucket.wait_s(5, 0.0) == pytest.approx(1.0)
