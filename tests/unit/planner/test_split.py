"""The two-cluster search against the paper's Table 6 and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Demand, decode_point
from prfaas.planner.split import TwoClusters
from prfaas.workload.lengths import TruncatedLogNormal

H200, H20 = load_profile("paper-1t-h200"), load_profile("paper-1t-h20-fit")
DECODE = decode_point(H20.decode_or_refuse, 40)


def model(line_bytes_per_s: float = 12.5e9) -> TwoClusters:
    assert H200.kv is not None
    demand = Demand(
        lengths=TruncatedLogNormal(9.9, 1.0, 128, 131072),
        output_tokens=1024,
        kv=H200.kv,
        tokens_per_s=40,
    )
    return TwoClusters(
        demand,
        prfaas=H200.prefill_or_refuse,
        pd_prefill=H20.prefill_or_refuse,
        decode=DECODE,
        line_bytes_per_s=line_bytes_per_s,
    )


PAPER = model()


def test_the_case_study() -> None:
    best = PAPER.best(4, 8, "mean-length")
    assert (best.n_p, best.n_d) == (3, 5)
    assert best.lambda_max == pytest.approx(3.24, rel=0.02)
    assert best.threshold_tokens == pytest.approx(19_400, rel=0.05)


def test_exact_expectations_are_never_more_optimistic() -> None:
    mean = PAPER.lambdas(4, 3, 5, "mean-length")
    exact = PAPER.lambdas(4, 3, 5, "exact")
    assert np.all(exact <= mean * (1 + 1e-9))


def test_the_grid_agrees_with_the_equations_at_a_point() -> None:
    threshold = float(PAPER.thresholds[2000])
    split = PAPER.at(threshold, 4, 3, 5, "exact")
    assert split.theta_prfaas is not None
    assert split.theta_pd_p is not None
    p = split.offloaded_share
    by_hand = min(split.theta_prfaas / p, split.theta_pd_p / (1 - p), split.theta_pd_d)
    assert split.lambda_max == pytest.approx(by_hand)
    assert PAPER.lambdas(4, 3, 5, "exact")[2000] == pytest.approx(by_hand, rel=1e-5)


def test_the_optimum_balances_the_prefill_stages() -> None:
    """Equation (7)."""
    best = PAPER.best(4, 8, "exact")
    assert best.theta_prfaas is not None
    assert best.theta_pd_p is not None
    p = best.offloaded_share
    assert best.theta_prfaas / p == pytest.approx(best.theta_pd_p / (1 - p), rel=0.02)


def test_nothing_and_everything_offloaded() -> None:
    naive = PAPER.at(0.0, 4, 0, 8, "mean-length")
    assert (naive.threshold_tokens, naive.theta_pd_p) == (None, None)
    assert naive.offloaded_share == 1
    homogeneous = PAPER.best(0, 12, "mean-length")
    assert (homogeneous.n_p, homogeneous.n_d, homogeneous.offloaded_share) == (9, 3, 0)
    assert homogeneous.egress_bytes_per_s == 0


def test_a_thin_line_binds_and_is_never_exceeded() -> None:
    thin = model(5e8)
    best = thin.best(4, 8, "exact")
    assert best.binding in ("line", "PD prefill")
    assert best.egress_bytes_per_s <= 5e8 * (1 + 1e-6)
    assert best.lambda_max < PAPER.best(4, 8, "exact").lambda_max


def test_too_few_nodes() -> None:
    with pytest.raises(ConfigError, match="at least 2 instances"):
        PAPER.best(4, 1, "exact")
