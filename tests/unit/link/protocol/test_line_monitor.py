"""Pacing, connection count and the congestion signal."""

from __future__ import annotations

import math

import pytest

from prfaas.link.protocol.connection_tuner import ConnectionTuner, first_guess
from prfaas.link.protocol.line_monitor import ConnectionSample, LineMonitor, LineSample, LineView
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


@pytest.mark.parametrize(
    ("rtt_s", "rate", "count"),
    [
        (0.0001, None, 2),
        (0.03, None, 4),
        (0.0001, 25e6, 1),
        (0.03, 25e6, 1),
        (0.001, 1.25e9, 5),
        (0.03, 125e6, 2),
        (0.03, 1.25e9, 13),
        (0.08, 1.25e9, 16),
    ],
)
def test_the_first_guess(rtt_s: float, rate: float | None, count: int) -> None:
    assert first_guess(rtt_s, rate) == count


def climb(
    tuner: ConnectionTuner, goodput_of: dict[int, float], seconds: float, start: float
) -> float:
    steps = int(seconds * 10)
    for step in range(steps):
        goodput = goodput_of.get(tuner.count, 100.0)
        tuner.observe(goodput, limited=False, now=start + step / 10)
    return start + seconds


def test_connections_stay_where_they_help_and_go_where_they_do_not() -> None:
    tuner = ConnectionTuner(4)
    now = climb(tuner, {4: 50.0, 6: 75.0, 9: 76.0}, 10.0, 0.0)
    assert tuner.count == 6
    climb(tuner, {6: 75.0}, 30.0, now)
    assert tuner.count == 6, "the question rests"
    idle = ConnectionTuner(4)
    for step in range(100):
        idle.observe(0.0, limited=True, now=step / 10)
    assert idle.count == 4


def sample(acknowledged: float, *, rtt_s: float = 0.03, **more: int) -> LineSample:
    connection = ConnectionSample(
        rtt_s=rtt_s,
        min_rtt_s=0.03,
        segments_sent=more.get("segments", 0),
        retransmits=more.get("retransmits", 0),
        delivery_rate_bytes_per_s=0.0,
        unsent_bytes=0,
        window_bytes=0,
        sent_bytes=0,
    )
    limit = more.get("limit", 1_000_000)
    return LineSample(int(acknowledged), more.get("queued", 0), limit, (connection,))


def run(seconds: float, rate: float, **more: float) -> LineView:
    monitor = LineMonitor()
    view = LineView()
    for step in range(int(seconds * 10)):
        view = monitor.observe(sample(rate * step / 10, **more), now=step / 10)  # type: ignore[arg-type]
    return view


def test_goodput_is_what_was_acknowledged() -> None:
    view = run(5.0, 400_000.0)
    assert view.goodput_bytes_per_s == pytest.approx(400_000, rel=0.01)
    assert view.utilisation == pytest.approx(0.4, rel=0.02)
    assert view.congestion < 0.05


def test_congestion_rises_with_use_before_any_queue() -> None:
    levels = [run(5.0, rate).congestion for rate in (3e5, 6e5, 8e5, 9.5e5)]
    assert levels == sorted(levels)
    assert levels[2] > 0.4
    assert levels[3] > 0.6


def test_each_sign_alone_is_seen() -> None:
    assert run(5.0, 1e5, rtt_s=0.06).congestion > 0.5
    assert run(5.0, 1e5, queued=10_000_000).congestion > 0.4
    monitor = LineMonitor()
    for step in range(30):
        lost = sample(1e4 * step, segments=100 * step, retransmits=3 * step)
        view = monitor.observe(lost, now=step / 10)
    assert view.congestion > 0.5
