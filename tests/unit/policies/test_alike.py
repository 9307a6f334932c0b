"""Engines in the order of their queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.description.file import parse_description
from prfaas.policies.alike_queues import Queues
from prfaas.scheduler.fleet import FleetState
from prfaas.scheduler.journal import Entry
from prfaas.sim.build import build_workload
from prfaas.sim.experiment import simulate
from prfaas.sim.runs import run_for

FLEET = """
name: a fleet
clusters:
  - {name: p0, kind: prfaas, instances: {count: 16, profile: paper-1t-h200}}
  - {name: p1, kind: prfaas, instances: {count: 12, profile: paper-1t-h200}}
  - name: d0
    kind: pd
    profile: paper-1t-h20-fit
    instances: [{role: prefill, count: 8}, {role: decode, count: 16}]
  - name: d1
    kind: pd
    profile: paper-1t-h20-fit
    instances: [{role: prefill, count: 6}, {role: decode, count: 10}]
links:
  - {from: p0, to: d0, rate: 20 Gbps, rtt: 20 ms}
  - {from: p0, to: d1, rate: 10 Gbps, rtt: 20 ms}
  - {from: p1, to: d1, rate: 20 Gbps, rtt: 20 ms}
model: {block_tokens: 64}
workload:
  lengths: {lognormal: {mu: 9.90, sigma: 1.00, low: 128, high: 128K}}
  output_tokens: 300
  arrivals: {process: poisson, rate: 20}
  requests: 400
slo: {ttft: 10 s, tpot: 25 ms}
"""


def test_of_engines_with_as_many_prefills_the_one_that_is_free_first_stands_in_front() -> None:
    queues = Queues(0)
    queues.put(0, 1, 7.0)
    queues.put(1, 1, 5.0)
    queues.put(2, 2, 4.0)
    queues.put(3, 2, 6.0)
    assert queues.fronts(3.0) == [(2.0, 1, 1), (1.0, 2, 2)]
    queues.drop(1, 1, 5.0)
    assert queues.fronts(3.0) == [(4.0, 0, 1), (1.0, 2, 2)]


def test_the_first_of_those_that_are_idle_beats_all_that_are_not() -> None:
    queues = Queues(0)
    queues.put(4, 0, 2.0)
    queues.put(1, 0, 2.5)
    queues.put(0, 3, 3.0)
    assert queues.fronts(2.2) == [(0.0, 4, 0)]
    assert queues.fronts(3.0) == [(0.0, 1, 0)]
    queues.drop(1, 0, 2.5)
    queues.drop(4, 0, 2.0)
    assert queues.fronts(3.0) == [(0.0, 0, 3)]


def test_what_is_late_is_expected_to_take_as_long_again() -> None:
    queues = Queues(0)
    queues.put(0, 1, 1.0)
    queues.put(1, 1, 2.0)
    queues.put(2, 1, 9.0)
    assert queues.fronts(4.0) == [(2.0, 1, 1)]
    queues.drop(1, 1, 2.0)
    assert queues.fronts(4.0) == [(3.0, 0, 1)]
    assert queues.fronts(7.0) == [(2.0, 2, 1)]


def test_the_last_of_the_fronts_is_found_without_the_others() -> None:
    queues = Queues(0)
    assert queues.first(0.0) is None
    queues.put(1, 2, 5.0)
    queues.put(2, 1, 7.0)
    assert queues.first(3.0) == queues.fronts(3.0)[-1] == (2.0, 1, 2)
    queues.put(0, 0, 4.0)
    assert queues.first(3.5) == queues.fronts(3.5)[-1] == (0.5, 0, 0)
    assert queues.first(4.0) == (0.0, 0, 0)


def test_a_fleet_is_simulated_alike_by_queues_and_in_arrays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    description = parse_description(FLEET, source="a fleet")
    workload = build_workload(description, beside=tmp_path)

    def run() -> list[tuple[float, Entry]]:
        log: list[tuple[float, Entry]] = []
        simulate(
            description,
            run_for(description, "auto"),
            workload,
            beside=tmp_path,
            log=lambda at, entry: log.append((at, entry)),
        )
        return log

    by_queues = run()
    monkeypatch.setattr(FleetState, "alike", None)
    assert run() == by_queues
