"""Lengths cut into buckets."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.planner.buckets import LEAST_BUCKETS, MOST_BUCKETS, Buckets, buckets_for
from prfaas.workload.lengths import (
    EmpiricalLengths,
    FloatArray,
    LengthDistribution,
    TruncatedLogNormal,
)

PAPER = TruncatedLogNormal(9.9, 1.0, 128, 131072)


@pytest.mark.parametrize(
    "lengths", [PAPER, EmpiricalLengths([5, 5, 9, 700]), EmpiricalLengths([4096, 4096])]
)
def test_every_request_is_in_one_bucket(lengths: LengthDistribution) -> None:
    buckets = Buckets(lengths, 64)
    assert buckets.share.sum() == pytest.approx(1)
    assert (buckets.share > 0).all()
    assert np.all(np.diff(buckets.edges) > 0)
    assert buckets.edges[0] < lengths.low
    assert buckets.edges[-1] == pytest.approx(lengths.high)
    assert buckets.share @ buckets.mean(np.sqrt) == pytest.approx(buckets.expectation(np.sqrt))
    whole = lengths.expectation(np.sqrt)
    assert buckets.expectation(np.sqrt) == pytest.approx(whole, rel=1e-6)


def test_a_function_is_evaluated_once() -> None:
    calls = []

    def function(tokens: FloatArray) -> FloatArray:
        calls.append(tokens)
        return tokens

    buckets = Buckets(PAPER, 16)
    assert buckets.mean(function) is buckets.mean(function)
    assert len(calls) == 1


def test_many_routes_have_fewer_buckets() -> None:
    counts = [buckets_for(routes) for routes in (1, 20, 40, 1000)]
    assert counts == [MOST_BUCKETS, MOST_BUCKETS, 128, LEAST_BUCKETS]
