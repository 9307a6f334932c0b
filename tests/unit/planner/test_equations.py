"""Equations (1) to (5) on numbers worked out by hand."""

from __future__ import annotations

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
