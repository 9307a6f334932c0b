"""What is known of a line: goodput, and a congestion signal that comes early."""

from __future__ import annotations

import pytest

from prfaas.link.protocol.line_monitor import ConnectionSample, LineMonitor, LineSample, LineView


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


def slowed(seconds: float, *, after_s: float, rate: float) -> LineView:
    """Full for ``after_s``; then ``rate`` is left, and a quarter of a second's worth waits. Neither
    round trips nor losses show it."""
    monitor, view, sent = LineMonitor(), LineView(), 0.0
    for step in range(round((after_s + seconds) * 10)):
        view = monitor.observe(sample(sent, queued=250_000), now=step / 10)
        sent += (1e6 if step < after_s * 10 else rate) / 10
    return view


def test_a_line_that_crawls_is_seen_within_two_seconds_by_what_it_carries_alone() -> None:
    assert slowed(2.0, after_s=3.0, rate=1e4).congestion > 0.5
    assert slowed(2.0, after_s=0.0, rate=1e4).congestion > 0.5


def test_the_first_second_of_a_burst_says_nothing() -> None:
    assert slowed(0.9, after_s=0.0, rate=1e4).congestion < 0.5
    assert slowed(3.0, after_s=0.0, rate=3e5).congestion < 0.5, "the queue is short at that rate"
