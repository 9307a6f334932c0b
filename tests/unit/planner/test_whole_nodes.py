"""Whole nodes: against every split of small deployments, and for a fleet."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.models.profiles import load_profile
from prfaas.planner.demand import Demand
from prfaas.planner.fluid import fluid_optimum
from prfaas.planner.sites import Cluster, Line
from prfaas.planner.whole_nodes import whole_nodes
from prfaas.workload.lengths import TruncatedLogNormal

H200, H20 = load_profile("paper-1t-h200"), load_profile("paper-1t-h20-fit")
assert H200.kv is not None
DEMAND = Demand(
    lengths=TruncatedLogNormal(9.9, 1.0, 128, 131072),
    output_tokens=1024,
    kv=H200.kv,
    tokens_per_s=40,
)


def fleet(prfaas: int, pd: int, lines: int, *, seed: int = 1) -> tuple[list[Cluster], list[Line]]:
    """So many clusters of the paper's two kinds, of random size, and lines of random rates; every
    PrfaaS cluster has one."""
    rng = random.Random(seed)
    clusters = [
        Cluster(name=f"e{n}", kind="prfaas", profile=H200, instances=rng.randint(2, 8))
        for n in range(prfaas)
    ] + [
        Cluster(name=f"w{n}", kind="pd", profile=H20, instances=rng.randint(2, 12))
        for n in range(pd)
    ]
    pairs = [(n, n % pd) for n in range(prfaas)]
    others = [(a, b) for a in range(prfaas) for b in range(pd) if (a, b) not in pairs]
    pairs += rng.sample(others, lines - len(pairs))
    rates = (0.2e9, 0.6e9, 1.2e9, 3e9, 12e9)
    return clusters, [
        Line(source=f"e{a}", target=f"w{b}", bytes_per_s=rng.choice(rates)) for a, b in pairs
    ]


@pytest.mark.parametrize(("clusters", "lines", "seed"), [(1, 1, 1), (2, 3, 2), (2, 4, 3)])
def test_no_other_split_of_a_small_deployment_is_better(
    clusters: int, lines: int, seed: int
) -> None:
    every, between = fleet(clusters, clusters, lines, seed=seed)
    pd = [cluster for cluster in every if cluster.kind == "pd"]

    def value(numbers: tuple[int, ...]) -> float:
        splits = {
            c.name: (float(n), float(c.instances - n)) for c, n in zip(pd, numbers, strict=True)
        }
        return fluid_optimum(DEMAND, every, between, splits=splits, buckets=32).lambda_max

    best = max(value(n) for n in product(*(range(1, c.instances) for c in pd)))
    found = whole_nodes(DEMAND, every, between)
    assert value(tuple(int(n_p) for n_p, _ in found.values())) >= best * (1 - 2e-3)


def test_a_fleet_is_planned_below_a_bound_that_is_certified() -> None:
    clusters, lines = fleet(10, 10, 30)
    splits = whole_nodes(DEMAND, clusters, lines)
    for cluster in clusters:
        if cluster.kind == "pd":
            n_p, n_d = splits[cluster.name]
            assert n_p + n_d == cluster.instances
            assert n_p == int(n_p) >= 0
    bound = fluid_optimum(DEMAND, clusters, lines)
    assert bound.lambda_max <= bound.upper_bound <= bound.lambda_max * 1.0001
    planned = fluid_optimum(DEMAND, clusters, lines, splits=splits)
    assert bound.upper_bound * 0.98 <= planned.lambda_max <= bound.upper_bound
    assert all(used <= 1 + 1e-6 for used in planned.utilisation.values())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4), st.integers(0, 1000))
@settings(max_examples=10)
def test_no_whole_nodes_beat_the_bound_of_elastic_roles(
    prfaas: int, pd: int, more: int, seed: int
) -> None:
    lines = min(prfaas + more, prfaas * pd)
    clusters, between = fleet(prfaas, pd, lines, seed=seed)
    splits = whole_nodes(DEMAND, clusters, between)
    planned = fluid_optimum(DEMAND, clusters, between, splits=splits, buckets=32)
    bound = fluid_optimum(DEMAND, clusters, between, buckets=32)
    assert 0 < planned.lambda_max <= planned.upper_bound * (1 + 1e-9)
    assert planned.lambda_max <= bound.upper_bound * (1 + 1e-9)
    assert bound.lambda_max <= bound.upper_bound * (1 + 1e-9)
