"""A deployment's column, from a split and from the linear program."""

from __future__ import annotations

from pathlib import Path

import pytest

from prfaas.planner.compare import prfaas_pd, two_clusters
from prfaas.planner.deployments import from_fluid, from_split
from prfaas.planner.fluid import fluid_optimum
from prfaas.planner.scenario import load_scenario

EXAMPLES = Path(__file__).parents[3] / "examples"
PAPER = load_scenario(EXAMPLES / "paper.yaml")
SITES = load_scenario(EXAMPLES / "two-sites.yaml")


def test_a_split_brings_ttft_and_the_other_expectations() -> None:
    model = two_clusters(PAPER)
    split, other = (model.best(4, 8, how) for how in ("mean-length", "exact"))
    column = from_split(PAPER, "n", "t", split, other, n_pd=8, cost=None)
    assert column.gpus == 96
    assert (column.n_p, column.n_d, column.n_prfaas) == (3, 5, 4)
    assert column.other_expectations is not None
    assert column.other_expectations.expectations == "exact"
    assert column.ttft is not None
    assert column.ttft_queueing is not None
    assert column.ttft_queueing.mean_s > column.ttft.mean_s
    assert column.ttft_queueing.rate == pytest.approx(0.8 * split.lambda_max)
    assert column.rate_within_ttft_slo_req_per_s is not None
    assert column.rate_within_ttft_slo_req_per_s < split.lambda_max


def test_nothing_offloaded_is_served_by_the_pd_cluster_alone() -> None:
    model = two_clusters(PAPER)
    split = model.best(0, 12, "exact")
    column = from_split(PAPER, "n", "t", split, split, n_pd=12, cost=None)
    assert (column.n_prfaas, column.gpus, column.theta_prfaas_req_per_s) == (0, 96, None)
    assert column.threshold_tokens is None
    assert column.ttft is not None
    assert column.ttft.mean_s == pytest.approx(
        PAPER.demand.lengths.expectation(PAPER.pd[0].profile.prefill_or_refuse.seconds), rel=0.01
    )


def test_a_routing_says_what_each_stage_could_serve() -> None:
    splits = {"west": (3.0, 5.0), "south": (2.0, 4.0)}
    optimum = fluid_optimum(SITES.demand, SITES.clusters, SITES.lines, splits=splits)
    column = from_fluid(SITES, "n", "t", optimum, splits, cost=None)
    lam = column.lambda_max_req_per_s
    assert (column.n_p, column.n_d, column.n_prfaas) == (5, 9, 6)
    assert column.theta_pd_d_req_per_s >= lam * (1 - 1e-6)
    assert column.theta_prfaas_req_per_s is not None
    assert column.theta_prfaas_req_per_s >= lam * column.offloaded_share * (1 - 1e-6)
    assert column.binding_constraint
    assert column.mean_offloaded_tokens is not None
    assert column.mean_offloaded_tokens > SITES.demand.lengths.mean()


def test_what_nobody_prefills_at_home_has_no_home_prefill() -> None:
    splits = {"west": (0.0, 8.0), "south": (0.0, 6.0)}
    optimum = fluid_optimum(SITES.demand, SITES.clusters, SITES.lines, splits=splits)
    column = from_fluid(SITES, "n", "t", optimum, splits, cost=None)
    assert column.theta_pd_p_req_per_s is None
    assert column.offloaded_share == pytest.approx(1)
    assert prfaas_pd(SITES).lambda_max_req_per_s > column.lambda_max_req_per_s
