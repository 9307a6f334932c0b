"""How long a newcomer would wait."""

from __future__ import annotations

import pytest

from prfaas.policies.waits import prefill_wait_s, remote_wait_s
from prfaas.testing.policy_views import fleet


def test_the_first_free_engine_that_is_up_counts() -> None:
    view = fleet()
    west = view.cluster("west")
    view.engines["p0"].book(5000, 5.0, 0.0)
    assert prefill_wait_s(west, 1.0) == 0.0
    view.engines["p1"].up = False
    assert prefill_wait_s(west, 1.0) == 4.0


def test_the_line_counts_where_it_is_worse_than_the_engines() -> None:
    view = fleet()
    west, line = view.cluster("west"), view.links["east", "west"]
    line.outstanding_bytes = 3e6
    assert remote_wait_s(view, west, 0.0) == 3.0
    view.engines["e0"].book(8000, 9.0, 0.0)
    assert remote_wait_s(view, west, 0.0) == 9.0
    line.up = False
    assert remote_wait_s(view, west, 0.0) == 60.0


def test_a_line_that_is_nearly_full_counts_as_a_wait() -> None:
    view = fleet()
    line = view.links["east", "west"]
    line.utilisation, line.congestion = 1.0, 0.5
    assert remote_wait_s(view, view.cluster("west"), 0.0) == pytest.approx(1.5)
