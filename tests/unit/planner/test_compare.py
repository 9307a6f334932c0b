"""The plan of the paper's case study, several clusters, prices and what-ifs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from prfaas.planner.compare import elastic_bound, plan, prfaas_pd
from prfaas.planner.scenario import load_scenario, parse_scenario

EXAMPLE = Path(__file__).parents[3] / "examples" / "paper.yaml"
PAPER = load_scenario(EXAMPLE)
PLAN = plan(PAPER)
BY_NAME = {deployment.name: deployment for deployment in PLAN.deployments}

SECOND_SITE = """
  - {name: north, kind: prfaas, instances: {count: 2, profile: paper-1t-h200}}
  - {name: south, kind: pd, instances: {count: 4, profile: paper-1t-h20-fit}}

links:
  - {from: north, to: south, rate: 10 Gbps}
"""


def two_sites() -> str:
    text = EXAMPLE.read_text().replace("\nlinks:\n", SECOND_SITE)
    return text.replace("    east: 4.50", "    north: 4.50\n    south: 3.00\n    east: 4.50")


def test_the_four_deployments_of_the_case_study() -> None:
    assert [d.name for d in PLAN.deployments] == [
        "prfaas_pd",
        "homogeneous_pd",
        "homogeneous_pd_same_cost",
        "naive_heterogeneous_pd",
    ]
    assert BY_NAME["prfaas_pd"].lambda_max_req_per_s == pytest.approx(3.24, rel=0.02)
    assert BY_NAME["homogeneous_pd"].lambda_max_req_per_s == pytest.approx(2.11, rel=0.05)
    assert BY_NAME["naive_heterogeneous_pd"].lambda_max_req_per_s == pytest.approx(2.45, rel=0.05)
    assert BY_NAME["homogeneous_pd"].gpus == BY_NAME["prfaas_pd"].gpus == 96


def test_both_expectations_are_shown_and_the_scenario_chooses() -> None:
    ours = BY_NAME["prfaas_pd"]
    assert ours.other_expectations is not None
    assert ours.other_expectations.lambda_max_req_per_s < ours.lambda_max_req_per_s
    exact = prfaas_pd(msgspec.structs.replace(PAPER, expectations="exact"))
    assert exact.lambda_max_req_per_s == ours.other_expectations.lambda_max_req_per_s


def test_a_fit_is_named_wherever_the_plan_shows() -> None:
    assert "paper-1t-h20-fit (fit)" in PLAN.profiles
    assert any("no measurement" in note for note in PLAN.notes)


def test_several_clusters_are_planned_with_whole_nodes() -> None:
    scenario = parse_scenario(two_sites(), source="two", beside=Path())
    result = plan(scenario)
    ours = result.deployments[0]
    assert ours.n_prfaas == 6
    assert ours.n_p + ours.n_d == 12
    assert ours.lambda_max_req_per_s <= result.fluid_bound.upper_bound
    assert ours.lambda_max_req_per_s > 0.93 * elastic_bound(scenario).lambda_max
    assert {d.expectations for d in result.deployments} == {"exact"}
    assert ours.cost is not None
    assert ours.cost.usd_per_hour == pytest.approx(
        48 * 4.5 + 96 * 3 + ours.cost.lines_usd_per_hour + ours.cost.traffic_usd_per_hour
    )
    naive = result.deployments[-1]
    assert naive.n_p == 0
    assert naive.offloaded_share == pytest.approx(1)


def test_short_answers_leave_somebody_to_decode() -> None:
    text = EXAMPLE.with_name("two-sites.yaml").read_text()
    assert "output_tokens: 1024" in text
    short = text.replace("output_tokens: 1024", "output_tokens: 128")
    scenario = parse_scenario(short, source="short", beside=Path())
    ours = prfaas_pd(scenario)
    assert ours.n_d >= 1
    assert 0 < ours.lambda_max_req_per_s <= elastic_bound(scenario).upper_bound


def test_a_pd_cluster_alone_is_compared_with_nothing() -> None:
    alone = msgspec.structs.replace(PAPER, clusters=PAPER.pd, lines=[])
    result = plan(alone)
    assert [d.name for d in result.deployments] == ["homogeneous_pd"]
    assert result.deployments[0].n_p + result.deployments[0].n_d == 8
    assert result.fluid_bound.threshold_tokens is None
