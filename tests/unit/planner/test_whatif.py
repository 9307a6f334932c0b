"""Break-even prices and what-ifs on the case study."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.planner.compare import plan, prfaas_pd
from prfaas.planner.deployments import Deployment
from prfaas.planner.scenario import load_scenario
from prfaas.planner.whatif import break_even, what_ifs

PAPER = load_scenario(Path(__file__).parents[3] / "examples" / "paper.yaml")
PLAN = plan(PAPER)
BY_NAME = {deployment.name: deployment for deployment in PLAN.deployments}


def with_cost(deployment: Deployment, **prices: float) -> Deployment:
    """The deployment planned again with other prices in the scenario."""
    replace = msgspec.structs.replace
    clusters = [
        replace(c, usd_per_gpu_hour=prices.get("gpu", c.usd_per_gpu_hour))
        if c.kind == "prfaas"
        else c
        for c in PAPER.clusters
    ]
    lines = [
        replace(
            line,
            usd_per_month=prices.get("month", line.usd_per_month),
            usd_per_gb=prices.get("gb", line.usd_per_gb),
        )
        for line in PAPER.lines
    ]
    assert deployment.name == "prfaas_pd"
    return prfaas_pd(replace(PAPER, clusters=clusters, lines=lines))


def test_at_each_break_even_price_both_serve_alike_per_dollar() -> None:
    ours, theirs = BY_NAME["prfaas_pd"], BY_NAME["homogeneous_pd"]
    prices = break_even(PAPER, ours, theirs)
    assert prices is not None
    assert theirs.cost is not None
    for changed in (
        with_cost(ours, gpu=prices.prfaas_usd_per_gpu_hour),
        with_cost(ours, month=prices.lines_usd_per_month),
        with_cost(ours, gb=prices.traffic_usd_per_gb),
    ):
        assert changed.cost is not None
        assert changed.cost.requests_per_usd == pytest.approx(theirs.cost.requests_per_usd)


def test_without_prices_nothing_is_priced() -> None:
    clusters = [msgspec.structs.replace(c, usd_per_gpu_hour=None) for c in PAPER.clusters]
    unpriced = plan(msgspec.structs.replace(PAPER, clusters=clusters))
    assert all(d.cost is None for d in unpriced.deployments)
    assert "homogeneous_pd_same_cost" not in {d.name for d in unpriced.deployments}
    assert break_even(PAPER, unpriced.deployments[0], unpriced.deployments[1]) is None


def test_what_costs_nothing_has_no_requests_per_dollar() -> None:
    replace = msgspec.structs.replace
    clusters = [replace(cluster, usd_per_gpu_hour=0.0) for cluster in PAPER.clusters]
    lines = [replace(line, usd_per_month=0.0) for line in PAPER.lines]
    free = plan(replace(PAPER, clusters=clusters, lines=lines))
    assert [d.cost.requests_per_usd for d in free.deployments if d.cost] == [None] * 3
    prices = break_even(PAPER, BY_NAME["prfaas_pd"], free.deployments[1])
    assert prices is not None
    assert prices.prfaas_usd_per_gpu_hour < 0  # Nothing is cheap enough beside what is free.


def test_what_ifs_move_the_right_way() -> None:
    relative = {row.change: row.relative for row in what_ifs(PAPER, BY_NAME["prfaas_pd"])}
    assert relative["every line x 2"] == pytest.approx(1)
    assert relative["every line x 0.05"] < 0.9
    assert relative["prefix hit rate 0% to 50%"] > 1.2
    assert relative["answers twice as long"] < 1
    assert relative["+1 prfaas instance in every prfaas cluster"] > 1


def test_each_change_is_told_before_it_is_planned() -> None:
    steps: list[str] = []
    rows = what_ifs(PAPER, BY_NAME["prfaas_pd"], on_step=steps.append)
    assert steps == [f"what if: {row.change}" for row in rows]
