"""The linear program on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from prfaas.core.errors import ConfigError
from prfaas.planner.buckets import Buckets
from prfaas.planner.program import Program
from prfaas.planner.routes import Resource
from prfaas.workload.lengths import EmpiricalLengths, FloatArray, Function

BUCKETS = Buckets(EmpiricalLengths([100, 300]), 4)
"""Two buckets of half the requests each."""


def constant(value: float) -> Function:
    return lambda tokens: np.full_like(tokens, value)


def identity(tokens: FloatArray) -> FloatArray:
    return tokens


def test_the_rates_fill_what_there_is_and_the_prices_say_what_binds() -> None:
    resources = [
        Resource("a", False, 1000.0, {0: identity}),
        Resource("b", False, 500.0, {1: identity}),
        Resource("line x", True, 1e12, {1: constant(7.0)}),
    ]
    program = Program(resources, BUCKETS, 2)
    rates, prices = program.solve()
    # 1500 tokens a second at 200 a request.
    assert rates.sum() == pytest.approx(7.5)
    assert rates.sum(axis=1) == pytest.approx(rates.sum() * BUCKETS.share)
    assert program.used(rates)[:2] == pytest.approx([1, 1])
    assert prices[2] == 0
    assert prices.sum() == pytest.approx(7.5)


def test_of_equal_routings_the_one_with_the_fewest_bytes_on_lines_is_taken() -> None:
    resources = [
        Resource("shared", False, 100.0, {0: constant(1.0), 1: constant(1.0)}),
        Resource("line x", True, 1e6, {1: constant(1.0)}),
    ]
    rates, _ = Program(resources, BUCKETS, 2).solve()
    assert rates.sum() == pytest.approx(100)
    assert rates[:, 1] == pytest.approx([0, 0], abs=1e-6)


def test_what_no_capacity_bounds_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot serve this workload"):
        Program([Resource("a", False, 1.0, {0: constant(0.0)})], BUCKETS, 1).solve()
