"""Arrival processes."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.workload.arrivals import Arrivals, Process, following


@pytest.mark.parametrize("process", ["uniform", "poisson", "bursty", "diurnal"])
def test_every_process_keeps_its_mean_rate(process: Process) -> None:
    times = Arrivals(process, 5.0, variation=2.0, period_s=500.0).times(
        20_000, np.random.default_rng(1)
    )
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert 20_000 / times[-1] == pytest.approx(5.0, rel=0.05)
    spread = gaps.std() / gaps.mean()
    low, high = {"uniform": (0, 0.01), "bursty": (1.8, 2.2)}.get(process, (0.95, 1.2))
    assert low <= spread <= high


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"rate_per_s": 0.0}, "rate 0: write more than 0"),
        ({"variation": float("inf")}, "variation inf"),
        ({"period_s": -1.0}, "period -1"),
        ({"swing": 1.0}, "swing 1: write a share"),
    ],
)
def test_numbers_that_describe_no_arrivals_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Arrivals("poisson", **{"rate_per_s": 1.0, **wrong})


def test_published_rates_are_followed_to_their_end() -> None:
    times = following([(1200.0, 1.0), (1800.0, 3.0)], 100_000, np.random.default_rng(1))
    assert 500 < (times < 600).sum() < 700
    assert 1650 < (times >= 600).sum() < 1950
    assert times.max() < 1200
    assert following([(0.0, 1.0)], 5, np.random.default_rng(1)).size == 5


def test_nobody_arrives_in_a_gap_between_published_rates() -> None:
    times = following([(0.0, 1.0), (1200.0, 1.0)], 100_000, np.random.default_rng(1))
    assert not ((times >= 600) & (times < 1200)).any()
    assert times.max() > 1200
