"""Equations (1) to (8) on numbers worked out by hand."""

from __future__ import annotations

from math import inf

import pytest

from prfaas.planner import equations as eq


def test_1_and_2() -> None:
    assert eq.kv_throughput(10.0, 2.0) == 5
    assert eq.required_egress(4, 10.0, 2.0) == 20


def test_3_is_bound_by_compute_or_by_the_line() -> None:
    assert eq.prfaas_throughput(4, 2.0, 100.0, 10.0) == 2
    assert eq.prfaas_throughput(4, 2.0, 5.0, 10.0) == 0.5


def test_4_and_5() -> None:
    assert eq.pd_prefill_throughput(3, 1.5) == 2
    assert eq.pd_decode_throughput(5, 20, 0.025, 1024) == pytest.approx(3.90625)


def test_6_takes_the_slowest_stage() -> None:
    assert eq.lambda_max(0.5, 1.61, 1.64, 3.91) == pytest.approx(3.22)
    assert eq.lambda_max(0.0, 0.0, 2.11, 2.35) == 2.11
    assert eq.lambda_max(1.0, 2.45, 0.0, 6.25) == 2.45
    assert eq.lambda_max(0.5, inf, inf, 1.0) == 1.0


def test_7_and_8_are_zero_at_balance_and_signed_around_it() -> None:
    assert eq.prefill_imbalance(0.25, 1.0, 3.0) == 0
    assert eq.prefill_imbalance(0.25, 0.9, 3.0) < 0
    assert eq.stage_imbalance(1.0, 3.0, 4.0) == 0
    assert eq.stage_imbalance(1.0, 3.0, 5.0) < 0
