"""Curves through measured points."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.interpolation import Interpolation, Table
from prfaas.models.profiles import load_profile

H200 = load_profile("paper-1t-h200").prefill_or_refuse


def test_scalar_and_array_agree() -> None:
    tokens = np.array([1.0, 128, 1024, 5000, 32768, 131072])
    for interpolation in ("linear", "log-log"):
        table = Table(H200.table.x, H200.table.y, interpolation=interpolation, what="t")
        assert table.at_each(tokens).tolist() == pytest.approx([table.at(t) for t in tokens])


def test_log_log_is_straight_in_logarithms() -> None:
    table = Table([10, 1000], [1, 100], interpolation="log-log", what="t")
    assert table.at(100) == pytest.approx(10)
    assert table.at(1) == pytest.approx(0.1)


def test_before_the_first_point_the_first_segment_goes_on_and_stays_positive() -> None:
    steep = Table([100, 200], [1, 10], interpolation="linear", what="t")
    assert steep.at(50) == pytest.approx(0.5)  # The segment would be at -3.5.
    assert steep.at_each(np.array([50.0])).tolist() == pytest.approx([0.5])
    assert (steep.covers_from, steep.covers_to) == (100, 200)
    constant = Table([100], [3], interpolation="linear", what="t")
    assert constant.at(100) == constant.at(99.999999) == pytest.approx(3)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([], [], "at least one point"),
        ([1, 2], [1], "each with both coordinates"),
        ([2, 1], [1, 1], "rising order"),
        ([0, 1], [1, 1], "must be positive"),
        ([1, 2], [1, 0], "values must be positive"),
    ],
)
@pytest.mark.parametrize("interpolation", ["linear", "log-log"])
def test_points_that_are_no_curve_are_named(
    x: list[float], y: list[float], says: str, interpolation: Interpolation
) -> None:
    with pytest.raises(ConfigError, match=f"t: .*{says}"):
        Table(x, y, interpolation=interpolation, what="t")
