"""The highest rate that a deployment sustains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from prfaas.core.errors import ConfigError
from prfaas.sim.build import build_workload
from prfaas.sim.runs import load_scenario, run_for
from prfaas.sim.summary import Summary
from prfaas.sim.sweep import InTurn, SweepPoint, sweep_rate

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENARIO = load_scenario(EXAMPLES / "paper.yaml")
RUN = run_for(SCENARIO, "threshold")
WORKLOAD = build_workload(SCENARIO, beside=EXAMPLES).first(200)
SOME = InTurn(SCENARIO, RUN, WORKLOAD.first(5), beside=EXAMPLES).at(1.0)


def test_the_rate_found_meets_the_slo_and_one_a_little_higher_does_not() -> None:
    heard: list[SweepPoint] = []
    rates = InTurn(SCENARIO, RUN, WORKLOAD, beside=EXAMPLES)
    sweep = sweep_rate("t", rates, WORKLOAD.rate, precision=0.05, on_point=heard.append)
    assert tuple(heard) == sweep.points
    met = [point.rate_req_per_s for point in sweep.points if point.met]
    missed = [point.rate_req_per_s for point in sweep.points if not point.met]
    assert sweep.best_req_per_s == max(met)
    assert min(rate for rate in missed if rate > max(met)) <= max(met) * 1.05
    assert sweep.best is not None
    assert all(point.met == (point.slo_share >= 0.9) for point in sweep.points)


def test_what_no_rate_meets_has_none() -> None:
    strict = msgspec.structs.replace(
        SCENARIO, slo=msgspec.structs.replace(SCENARIO.slo, ttft="1 ms")
    )
    few = WORKLOAD.first(20)
    sweep = sweep_rate("t", InTurn(strict, RUN, few, beside=EXAMPLES), few.rate)
    assert (sweep.best_req_per_s, sweep.best) == (0.0, None)
    assert not any(point.met for point in sweep.points)


def test_requests_that_arrive_together_have_no_rate_to_sweep() -> None:
    together = msgspec.structs.replace(WORKLOAD.first(3), arrivals=[0.0, 0.0, 0.0])
    with pytest.raises(ConfigError, match="no rate to sweep"):
        sweep_rate("t", InTurn(SCENARIO, RUN, together, beside=EXAMPLES), together.rate)


class _UpTo:
    """Every rate up to a limit meets the SLO."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.expected: list[float] = []
        self.surprises: list[float] = []

    def at(self, rate: float) -> Summary:
        if rate not in self.expected:
            self.surprises.append(rate)
        share = 1.0 if rate <= self.limit else 0.0
        return msgspec.structs.replace(SOME, slo_share=share, offered_req_per_s=rate)

    def expect(self, rates: Sequence[float]) -> None:
        self.expected = list(rates)


@pytest.mark.parametrize("limit", [0.3, 1.0, 7.0, 100.0])
def test_what_is_asked_for_was_told_before(limit: float) -> None:
    rates = _UpTo(limit)
    sweep = sweep_rate("t", rates, 1.0)
    assert limit / 1.01 <= sweep.best_req_per_s <= limit
    assert not rates.surprises
    assert rates.expected == []
