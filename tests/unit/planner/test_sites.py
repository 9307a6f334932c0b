"""Clusters and lines."""

from __future__ import annotations

import pytest

from prfaas.models.profiles import load_profile
from prfaas.planner.sites import Cluster, Line


def test_rent_is_by_gpu_and_none_without_a_price() -> None:
    cluster = Cluster(
        name="w", kind="pd", profile=load_profile("paper-1t-h20-fit"), instances=3,
        usd_per_gpu_hour=2.5,
    )  # fmt: skip
    assert cluster.usd_per_hour == 3 * 8 * 2.5
    free = Cluster(name="w", kind="pd", profile=cluster.profile, instances=3)
    assert free.usd_per_hour is None
    assert (free.prefill_name, free.decode_name) == ("w prefill", "w decode")


def test_a_line_costs_rent_and_traffic() -> None:
    line = Line(source="a", target="b", bytes_per_s=1e9, usd_per_month=730, usd_per_gb=0.01)
    assert line.name == "a to b"
    assert line.usd_per_hour(0) == pytest.approx(1)
    assert line.usd_per_hour(1e9) == pytest.approx(1 + 3600 * 0.01)
