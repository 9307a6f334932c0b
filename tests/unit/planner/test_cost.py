"""What a deployment costs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.planner.compare import plan
from prfaas.planner.cost import cost_of
from prfaas.planner.scenario import load_scenario

PAPER = load_scenario(Path(__file__).parents[3] / "examples" / "paper.yaml")


def test_gpus_lines_and_traffic_add_up() -> None:
    lines = [msgspec.structs.replace(line, usd_per_gb=0.01) for line in PAPER.lines]
    priced = msgspec.structs.replace(PAPER, lines=lines)
    cost = cost_of(priced, priced.clusters, {"east to west": 1e9}, 2.0)
    assert cost is not None
    assert cost.lines_usd_per_hour == pytest.approx(10_000 / 730)
    assert cost.traffic_usd_per_hour == pytest.approx(36)
    rents = 4 * 8 * 4.5 + 8 * 8 * 3.0
    assert cost.usd_per_hour == pytest.approx(rents + 10_000 / 730 + 36)
    assert cost.requests_per_usd == pytest.approx(7200 / cost.usd_per_hour)


def test_a_line_that_is_not_used_is_not_part_of_it() -> None:
    cost = cost_of(PAPER, PAPER.pd, {}, 2.0)
    assert cost is not None
    assert (cost.lines_usd_per_hour, cost.usd_per_hour) == (0, 8 * 8 * 3.0)


def test_one_cluster_without_a_price_leaves_all_unpriced() -> None:
    unpriced = msgspec.structs.replace(PAPER.pd[0], usd_per_gpu_hour=None)
    assert cost_of(PAPER, [*PAPER.prfaas, unpriced], {}, 2.0) is None


def test_the_same_money_buys_no_more_than_it_may() -> None:
    by_name = {deployment.name: deployment for deployment in plan(PAPER).deployments}
    ours, theirs = by_name["prfaas_pd"], by_name["homogeneous_pd_same_cost"]
    assert ours.cost is not None
    assert theirs.cost is not None
    assert theirs.cost.usd_per_hour <= ours.cost.usd_per_hour
