"""The fluid line against hand-computed times."""

from __future__ import annotations

import pytest

from prfaas.sim.clock import Clock
from prfaas.sim.line import Flow, Line


class Bench:
    def __init__(self, rate: float = 100.0, rtt: float = 0.0, loss: float = 0.0) -> None:
        self.clock = Clock()
        self.arrived: dict[str, float] = {}
        self.line = Line(
            self.clock,
            rate_bytes_per_s=rate,
            rtt_s=rtt,
            loss=loss,
            connections=2,
            on_arrived=lambda key: self.arrived.__setitem__(key[0], self.clock.now),
        )

    def transfer(self, name: str, at: float, prefill_s: float, *sizes: float) -> None:
        flow = Flow((name, 1), *sizes, prefill_s)
        self.clock.at(at, self.line.open, flow)
        self.clock.at(at + prefill_s, self.line.produced, flow.key)

    def run(self) -> None:
        while self.clock.next_at < 1e9:
            self.clock.run_next()


def test_a_fast_line_hides_all_but_the_state() -> None:
    bench = Bench(rtt=0.2)
    bench.transfer("a", 0.0, 10.0, 0.0, 500.0, 50.0)
    bench.run()
    assert bench.arrived["a"] == pytest.approx(10.0 + 0.5 + 0.1)
    assert bench.line.received_bytes == 550.0


def test_a_slow_line_is_bound_by_its_rate_and_cached_blocks_go_at_once() -> None:
    bench = Bench(rate=10.0)
    bench.transfer("a", 0.0, 10.0, 100.0, 500.0, 50.0)
    bench.run()
    assert bench.arrived["a"] == pytest.approx(65.0)
    assert sum(bench.line.per_second()) == pytest.approx(650.0)


def test_fair_sharing_leaves_what_the_modest_do_not_need() -> None:
    bench = Bench(rate=100.0)
    bench.transfer("modest", 0.0, 10.0, 0.0, 100.0, 0.0)  # 10 bytes/s
    bench.transfer("hungry", 0.0, 10.0, 900.0, 0.0, 0.0)  # gets the other 90
    bench.run()
    assert bench.arrived["modest"] == pytest.approx(10.0)
    assert bench.arrived["hungry"] == pytest.approx(10.0)


def test_equal_transfers_share_equally() -> None:
    bench = Bench(rate=100.0)
    for name in "ab":
        bench.transfer(name, 0.0, 1.0, 0.0, 500.0, 0.0)
    bench.run()
    assert bench.arrived == {"a": pytest.approx(10.0), "b": pytest.approx(10.0)}


def test_a_cut_line_resumes_where_it_stopped() -> None:
    bench = Bench(rate=100.0)
    bench.transfer("a", 0.0, 1.0, 0.0, 200.0, 0.0)
    bench.clock.at(1.0, bench.line.set_rate, 0.0)
    bench.clock.at(6.0, bench.line.set_rate, 100.0)
    bench.run()
    assert bench.arrived["a"] == pytest.approx(7.0)


def test_a_cancelled_transfer_counts_what_it_sent() -> None:
    bench = Bench(rate=100.0)
    bench.transfer("a", 0.0, 1.0, 0.0, 500.0, 0.0)
    bench.clock.at(2.0, bench.line.cancel, ("a", 1))
    bench.run()
    assert not bench.arrived
    assert bench.line.dropped_bytes == pytest.approx(200.0)
    assert bench.line.sent_bytes == pytest.approx(200.0)


def test_loss_bounds_each_connection_by_its_window() -> None:
    clean, lossy = Bench(rate=1e9, rtt=0.03), Bench(rate=1e9, rtt=0.03, loss=1e-4)
    assert clean.line.rate == 1e9
    assert lossy.line.rate == pytest.approx(2 * 1.22 * 1448 / (0.03 * 0.01))
