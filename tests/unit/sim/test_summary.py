"""One run in a row of numbers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.runs import load_scenario, run_for
from prfaas.sim.simulation import Simulation
from prfaas.sim.summary import egress, steady_window, summarise

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENARIO = load_scenario(EXAMPLES / "paper.yaml")


def run(policy: str, *, count: int = 300, until: float = float("inf")) -> Simulation:
    workload = build_workload(SCENARIO, beside=EXAMPLES).first(count)
    return simulate(SCENARIO, run_for(SCENARIO, policy), workload, beside=EXAMPLES, until=until)


def test_what_is_answered_is_counted_once() -> None:
    simulation = run("threshold")
    summary = summarise("mine", simulation, SCENARIO.slo)
    table = simulation.recorder.table()
    assert (summary.requests, summary.lost, summary.lost_by_error) == (300, 0, {})
    assert summary.ttft_s.p50 == pytest.approx(float(np.percentile(table.ttft_s, 50)))
    assert summary.ttft_s.p50 <= summary.ttft_s.p90 <= summary.ttft_s.p99
    assert summary.slo_share == pytest.approx(
        np.mean(
            (table.ttft_s <= SCENARIO.slo.ttft_s) & (table.tpot_s <= SCENARIO.slo.tpot_s + 1e-6)
        )
    )
    assert summary.goodput_req_per_s <= summary.throughput_req_per_s
    assert 0 < summary.offloaded_share + summary.direct_share <= 1
    assert all(0 <= share <= 1 for share in summary.utilisation.values())


def test_the_steady_part_begins_with_the_tenth_part_of_the_requests() -> None:
    table = run("threshold", count=100).recorder.table()
    assert steady_window(table) == (table.arrived_at[10], table.arrived_at[-1])


def test_a_run_that_was_cut_short_counts_what_it_left() -> None:
    summary = summarise("mine", run("threshold", until=60.0), SCENARIO.slo)
    assert 0 < summary.lost < 300
    assert summary.slo_share <= 1 - summary.lost / 300


def test_what_admission_refuses_is_not_lost() -> None:
    slo = msgspec.structs.replace(SCENARIO.slo, ttft="4 s")
    offered = msgspec.structs.replace(SCENARIO, slo=slo)
    workload = build_workload(offered, beside=EXAMPLES).first(200).sped_up(4.0)
    simulation = simulate(offered, run_for(offered, "auto"), workload, beside=EXAMPLES)
    summary = summarise("mine", simulation, offered.slo)
    answered = int((~np.isnan(simulation.recorder.table().done_at)).sum())
    assert summary.refused == 200 - answered > 0
    assert (summary.lost, summary.lost_by_error) == (0, {})


def test_without_answers_there_are_no_times() -> None:
    summary = summarise("mine", run("threshold", until=0.01), SCENARIO.slo)
    assert summary.lost == 300
    assert np.isnan(summary.ttft_s.p99)
    assert (summary.goodput_req_per_s, summary.offloaded_share) == (0, 0)


def test_what_is_not_offloaded_leaves_no_egress_and_all_that_is_does() -> None:
    assert egress(run("homogeneous")).sum() == 0
    simulation = run("threshold")
    received = sum(line.received_bytes for line in simulation.lines.values())
    assert received > 0
    assert egress(simulation).sum() == pytest.approx(received, rel=1e-6)


def test_a_laxer_slo_is_met_by_more() -> None:
    simulation = run("threshold")
    shares = [
        summarise("mine", simulation, msgspec.structs.replace(SCENARIO.slo, ttft=ttft)).slo_share
        for ttft in ("1 s", "3 s", "1000 s")
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
