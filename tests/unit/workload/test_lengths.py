"""Length distributions: expectations against closed forms and against their own samples."""

from __future__ import annotations

from math import exp, log, nan

import numpy as np
import pytest
from scipy.special import ndtr

from prfaas.core.errors import ConfigError
from prfaas.workload.lengths import EmpiricalLengths, HistogramLengths, TruncatedLogNormal

PAPER = TruncatedLogNormal(9.9, 1.0, 128, 128 * 1024)


def closed_form_mean(above: float, up_to: float) -> float:
    """E[L | above < L <= up_to] of a log-normal, by the shifted normal."""

    def z(x: float, shift: float) -> float:
        return float(ndtr(log(x) - 9.9 - shift))

    return exp(9.9 + 0.5) * (z(up_to, 1) - z(above, 1)) / (z(up_to, 0) - z(above, 0))


@pytest.mark.parametrize(("above", "up_to"), [(128, 131072), (19865.6, 131072), (128, 19865.6)])
def test_conditional_mean_matches_closed_form(above: float, up_to: float) -> None:
    assert PAPER.mean(above=above, up_to=up_to) == pytest.approx(
        closed_form_mean(above, up_to), rel=1e-9
    )


def test_paper_workload_has_the_mean_it_states() -> None:
    assert PAPER.mean() == pytest.approx(27_000, rel=0.02)
    assert PAPER.share_above(19_400) == pytest.approx(0.496, abs=0.002)
    assert PAPER.mean(above=19_400) == pytest.approx(44_000, rel=0.04)


def test_lognormal_density_integrates_to_one_and_cdf_inverts() -> None:
    grid = np.linspace(128, 131072, 200_001)
    assert np.trapezoid(PAPER.pdf(grid), grid) == pytest.approx(1, rel=1e-6)
    q = np.linspace(0, 1, 11)
    assert PAPER.cdf(PAPER.quantile(q)) == pytest.approx(q)
    assert PAPER.pdf(np.array([1.0, 2e6])).tolist() == [0, 0]


def test_samples_are_seeded_whole_and_inside() -> None:
    a = PAPER.sample(np.random.default_rng(7), 20_000)
    b = PAPER.sample(np.random.default_rng(7), 20_000)
    assert a.dtype == np.int64
    assert np.array_equal(a, b)
    assert a.min() >= 128
    assert a.max() <= 131072
    assert a.mean() == pytest.approx(PAPER.mean(), rel=0.02)


def test_scaling_scales_the_mean() -> None:
    for lengths in (PAPER, EmpiricalLengths([1, 5, 9]), HistogramLengths([0, 10, 20], [1, 3])):
        assert lengths.scaled(0.5).mean() == pytest.approx(lengths.mean() / 2)


def test_empirical_counts_each_observation_once() -> None:
    lengths = EmpiricalLengths([100, 100, 200, 400])
    assert lengths.mean() == 200
    assert lengths.share_above(100) == 0.5
    assert lengths.mean(above=100) == 300
    assert lengths.mean(up_to=100) == 100
    assert lengths.quantile(np.array([0.0, 0.5, 0.51, 1.0])).tolist() == [100, 100, 200, 400]
    edges = np.array([0, 100, 300, 400.0])
    assert lengths.bucket_expectations(np.ones_like, edges).tolist() == [0.5, 0.25, 0.25]


def test_histogram_is_uniform_inside_a_bucket() -> None:
    lengths = HistogramLengths([0, 1000, 2000], [1, 3])
    assert lengths.mean() == pytest.approx(0.25 * 500 + 0.75 * 1500)
    assert lengths.mean(above=1500) == pytest.approx(1750)
    assert lengths.share_above(1500) == pytest.approx(0.375)
    assert lengths.quantile(np.array([0.25, 0.625])).tolist() == pytest.approx([1000, 1500])


def test_an_empty_range_has_no_mean() -> None:
    assert np.isnan(PAPER.mean(above=200_000))
    assert np.isnan(EmpiricalLengths([5]).mean(above=5))


@pytest.mark.parametrize("many", [10, 34, 39])
def test_rounding_leaves_no_side_of_a_cut(many: int) -> None:
    cut = float(np.nextafter(1e5, 0))
    assert EmpiricalLengths([10, *[1e5] * many]).mean(above=cut) >= cut
    assert EmpiricalLengths([*[1e5] * many, 2e5]).mean(up_to=1e5) <= 1e5


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TruncatedLogNormal(9, 0, 1, 2), "sigma > 0"),
        (lambda: TruncatedLogNormal(9, 1, 5, 2), "low < high"),
        (lambda: TruncatedLogNormal(nan, 1, 1, 2), "finite mu"),
        (lambda: TruncatedLogNormal(9, nan, 1, 2), "sigma > 0"),
        (lambda: TruncatedLogNormal(0, 0.1, 1e6, 2e6), "no length"),
        (lambda: EmpiricalLengths([]), "at least one"),
        (lambda: EmpiricalLengths([0]), "positive"),
        (lambda: HistogramLengths([0, 1], [1, 1]), "one edge more"),
        (lambda: HistogramLengths([0, 5, 5], [1, 1]), "rise"),
        (lambda: HistogramLengths([0, 5], [0]), "more than 0"),
        (lambda: HistogramLengths([0, 5], [nan]), "more than 0"),
    ],
)
def test_bad_input_says_what_to_write(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
