"""Several processes find what one does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from prfaas.sim.build import build_workload
from prfaas.sim.parallel import Job, Setting, run_all, sweep_all
from prfaas.sim.runs import load_scenario, run_for, with_seed

EXAMPLES = Path(__file__).parents[3] / "examples"
SCENARIO = load_scenario(EXAMPLES / "paper.yaml")
WORKLOADS = tuple(
    build_workload(with_seed(SCENARIO, seed), beside=EXAMPLES).first(120) for seed in (1, 2)
)
SETTING = Setting(SCENARIO, WORKLOADS, EXAMPLES)
JOBS = [
    Job(f"{name} {number}", run_for(SCENARIO, name), number)
    for name in ("threshold", "auto")
    for number in range(2)
]


def test_runs_over_policies_and_seeds_are_the_same_one_by_one_and_together() -> None:
    arrived: dict[int, int] = {}
    alone = list(run_all(SETTING, JOBS, processes=1, whole=True))
    together = list(
        run_all(SETTING, JOBS, processes=2, whole=True, on_progress=arrived.__setitem__)
    )
    assert [outcome.summary for outcome in alone] == [outcome.summary for outcome in together]
    assert [outcome.summary.name for outcome in together] == [job.name for job in JOBS]
    for one, other in zip(alone, together, strict=True):
        assert one.table is not None
        assert other.table is not None
        for column, same in zip(
            msgspec.structs.astuple(one.table), msgspec.structs.astuple(other.table), strict=True
        ):
            np.testing.assert_array_equal(column, same)
        np.testing.assert_array_equal(one.sent, other.sent)
    assert alone[0].summary != alone[1].summary
    assert arrived == dict.fromkeys(range(4), 120)


def test_a_sweep_that_is_ahead_of_itself_finds_the_same_rate_by_the_same_steps() -> None:
    jobs = JOBS[:1]
    assert sweep_all(SETTING, jobs, processes=3, precision=0.2) == sweep_all(
        SETTING, jobs, processes=1, precision=0.2
    )
