"""Workloads: drawn, cut, sped up."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.workload.arrivals import Arrivals
from prfaas.workload.lengths import TruncatedLogNormal
from prfaas.workload.requests import Workload, draw


def test_the_first_of_a_workload_keep_all_they_have() -> None:
    workload = Workload([0.0, 1.0, 2.0], [9, 8, 7], [1, 2, 3], [[5], [], [6]], 128)
    assert workload.first(2) == Workload([0.0, 1.0], [9, 8], [1, 2], [[5], []], 128)
    assert workload.first(9) == workload


def test_drawing_repeats_with_the_seed_and_bad_rates_are_refused() -> None:
    lengths = TruncatedLogNormal(9.9, 1.0, 128, 131072)
    first, second = (
        draw(lengths, 9, Arrivals("poisson", 1.0), 50, np.random.default_rng(3)) for _ in "ab"
    )
    assert first == second
    assert first.rate > 0
    with pytest.raises(ConfigError, match="rate 0: write more than 0"):
        Arrivals("poisson", 0.0)
    with pytest.raises(ConfigError, match="speed-up"):
        first.sped_up(0)


def test_faster_requests_are_the_same_requests() -> None:
    workload = Workload([0.0, 2.0, 4.0], [9, 8, 7], [1, 2, 3])
    faster = workload.sped_up(2)
    assert list(faster.arrivals) == [0.0, 1.0, 2.0]
    assert (faster.prompts, faster.outputs) == (workload.prompts, workload.outputs)
    assert (workload.rate, faster.rate) == (0.5, 1.0)


def test_requests_that_arrive_together_have_no_rate() -> None:
    assert np.isnan(Workload([1.0, 1.0], [9, 8], [1, 2]).rate)
    assert np.isnan(Workload([], [], []).rate)
