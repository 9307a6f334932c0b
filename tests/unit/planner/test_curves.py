"""Conditional expectations for every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.planner.curves import ThresholdCurves
from prfaas.workload.lengths import EmpiricalLengths, TruncatedLogNormal


def test_curves_of_observed_lengths_are_plain_averages() -> None:
    curves = ThresholdCurves(EmpiricalLengths([100, 200, 300, 400]))
    at = int(np.searchsorted(curves.thresholds, 200))
    assert curves.thresholds[at] == 200
    assert curves.p[at] == pytest.approx(0.5)
    assert curves.above(lambda t: t**2, "exact")[at] == pytest.approx((300**2 + 400**2) / 2)
    assert curves.above(lambda t: t**2, "mean-length")[at] == pytest.approx(350**2)
    assert curves.below(lambda t: t, "exact")[at] == pytest.approx(150)
    assert np.isnan(curves.above(lambda t: t, "exact")[-1])


def test_where_all_are_equally_long_a_threshold_takes_all_or_none() -> None:
    curves = ThresholdCurves(EmpiricalLengths([4096, 4096, 4096]))
    assert curves.p.tolist() == [1.0, 0.0]
    assert curves.above(lambda t: t, "exact")[0] == pytest.approx(4096)


def test_both_sides_of_every_threshold_make_the_whole() -> None:
    lengths = TruncatedLogNormal(9.9, 1.0, 128, 131072)
    curves = ThresholdCurves(lengths)
    inside = (curves.p > 1e-9) & (curves.p < 1 - 1e-9)
    p = curves.p[inside]
    above = curves.above(np.sqrt, "exact")[inside]
    below = curves.below(np.sqrt, "exact")[inside]
    whole = lengths.expectation(np.sqrt)
    assert p * above + (1 - p) * below == pytest.approx(np.full_like(p, whole), rel=1e-6)
    assert np.all(np.diff(curves.thresholds) > 0)
    assert curves.p[0] == pytest.approx(1)
    assert curves.p[-1] == 0
