"""What the pictures of a simulation compute before they draw."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from prfaas.plots.simulation import disturbances, rolling_p99
from prfaas.sim.world import LineModel, Outage


def line(*changes: tuple[float, float]) -> LineModel:
    return LineModel("east", "west", 100.0, 0.0, 0.0, 1, changes)


def test_a_line_is_disturbed_while_it_carries_less_than_its_rate() -> None:
    assert disturbances([line((5.0, 20.0), (7.0, 50.0), (9.0, 100.0))], []) == [(5.0, 9.0)]
    assert disturbances([line((5.0, 0.0))], []) == [(5.0, inf)]
    assert disturbances([line()], [Outage("e", 3.0, 4.0)]) == [(3.0, 7.0)]


def test_p99_is_taken_over_each_window_that_has_a_request() -> None:
    at, p99 = rolling_p99(np.array([1.0, 2.0, 25.0]), np.array([1.0, 3.0, 5.0]), 10.0)
    assert at.tolist() == [0.0, 20.0]
    assert p99.tolist() == pytest.approx([2.98, 5.0])
