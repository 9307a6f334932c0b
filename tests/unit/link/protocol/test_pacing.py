"""Pacing: no bursts, little catching up, and a share that is left to others."""

from __future__ import annotations

import math

import pytest

from prfaas.link.protocol.pacing import CapacityEstimate, Pacer, connection_rate


def test_no_window_of_10_ms_exceeds_the_rate_by_more_than_a_chunk() -> None:
    rate, chunk, pacer = 25e6, 62_500, Pacer(25e6)
    sent: list[float] = []
    now = 0.0
    while now < 1.0:
        now = pacer.ready_at(now=now)
        sent.append(now)
        pacer.spend(chunk, now=now)
    for start in sent:
        burst = sum(chunk for at in sent if start <= at < start + 0.01 - 1e-9)
        assert burst <= rate * 0.01 + chunk


def test_a_late_sender_catches_up_on_little_only() -> None:
    pacer = Pacer(1e6)
    pacer.spend(1000, now=0.0)
    pacer.spend(1000, now=5.0)
    assert pacer.ready_at(now=5.0) == 5.0
    pacer.spend(30_000, now=5.0)
    assert pacer.ready_at(now=5.0) == pytest.approx(5.0 + 0.006, abs=0.001)
    assert Pacer(None).ready_at(now=3.0) == 3.0


def test_a_rate_holds_from_when_it_is_set() -> None:
    """What was spent at a rate near zero is no debt at the next."""
    pacer = Pacer(0.0)
    assert pacer.ready_at(now=1.0) == math.inf
    pacer.rate_bytes_per_s = 1e-20
    pacer.spend(1000, now=1.0)
    assert pacer.ready_at(now=2.0) > 1e20
    pacer.rate_bytes_per_s = 1e3
    assert pacer.ready_at(now=1.5) == pytest.approx(2.0, abs=0.03)
    pacer.rate_bytes_per_s = None
    assert pacer.ready_at(now=1.5) == 1.5


def test_connections_may_take_over_a_slow_ones_part() -> None:
    assert connection_rate(100.0, 4) * 4 > 100.0
    assert connection_rate(100.0, 4) * 3 >= 80.0
    assert 100.0 < connection_rate(100.0, 0) == connection_rate(100.0, 1) <= 103.0


def test_a_share_left_to_others_follows_the_capacity() -> None:
    estimate = CapacityEstimate()
    for goodput in (0.0, *[100e6] * 18):
        estimate.observe(goodput)
        assert estimate.limit(0.2, now=5.0) is None
    estimate.observe(80e6)
    assert estimate.limit(0.2, now=5.0) == pytest.approx(80e6)
    assert estimate.limit(0.2, now=1000.9) == pytest.approx(125e6), "it looks for more"
    for _ in range(300):
        assert estimate.limit(0.2, now=5.0) > 40e6
        estimate.observe(50e6)
    assert estimate.limit(0.2, now=5.0) == pytest.approx(40e6), "old samples go"
    for _ in range(300):
        estimate.observe(0.0)
    assert estimate.limit(0.9, now=5.0) > 0.0
